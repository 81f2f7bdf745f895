"""How a run's page looks, and the few lines of script in it. The page is complete without the script."""

from __future__ import annotations

from tiw_fsm.reporting.curves import COLOURS

DECISIONS = "".join(
    f".verdict.{name}{{--mark:{colour}}}.gate.{name}{{--mark:{colour}}}" for name, colour in COLOURS.items()
)

STYLE = (
    """
:root{--page:#f6f7f9;--card:#fff;--text:#1c2430;--muted:#667085;--rule:#e2e6eb;--accent:#2f6db5;--tint:#e3edf8;
--good:#23813d;--warn:#a86a00;--bad:#c13438;--kept:#2f6db5;--repeated:#b9c2ce;--rate:#7b8794}
@media (prefers-color-scheme:dark){:root{--page:#12151a;--card:#1a1f26;--text:#e4e8ee;--muted:#94a0b0;--rule:#2d353f;
--accent:#78ace8;--tint:#22354b;--good:#5cc37a;--warn:#e0a84a;--bad:#f07a7d;--kept:#78ace8;--repeated:#4a5563;
--rate:#8d99a8}}
*{box-sizing:border-box}
body{margin:0;background:var(--page);color:var(--text);font:15px/1.5 system-ui,-apple-system,"Segoe UI",Roboto,
"Noto Sans","DejaVu Sans",sans-serif;overflow-wrap:anywhere}
header,main,footer{max-width:1120px;margin:0 auto;padding:0 20px}
header{padding-top:26px}
h1{font-size:26px;line-height:1.2;margin:0;letter-spacing:-.01em}
h2{font-size:17px;margin:0 0 10px}
h3{font-size:14px;margin:18px 0 6px;font-weight:600}
p{margin:6px 0}
section{background:var(--card);border:1px solid var(--rule);border-radius:12px;padding:18px 20px;margin:16px 0}
#stages{background:none;border:0;padding:0}
.note,figcaption,footer,.facts{color:var(--muted);font-size:13px}
.advice{margin:4px 0 10px;padding-left:20px;font-size:14px}
.facts span:not(:last-child)::after{content:" · "}
.state-line{display:flex;gap:12px;align-items:center;margin:10px 0}
.badge{font-weight:700;letter-spacing:.03em;padding:4px 12px;border-radius:8px;
background:var(--tint);color:var(--accent)}
.badge.passed{background:var(--good);color:var(--card)}.badge.failed{background:var(--bad);color:var(--card)}
.life::before{content:"";display:inline-block;width:9px;height:9px;border-radius:50%;margin-right:7px;
background:var(--muted)}
.life.running::before{background:var(--good)}
.stale{color:var(--warn)}
.problem{border-left:4px solid var(--warn);background:var(--card);padding:10px 14px;
border-radius:6px;white-space:pre-line}
.wide{overflow-x:auto;-webkit-overflow-scrolling:touch}
.cards{display:grid;grid-template-columns:repeat(auto-fit,minmax(230px,1fr));gap:14px}
.card{background:var(--card);border:1px solid var(--rule);border-radius:12px;padding:14px 18px}
.card.now{border-color:var(--accent)}
.card h3{margin:0;display:flex;justify-content:space-between;gap:8px}
.figure b{font-size:22px;font-variant-numeric:tabular-nums}
.meter{height:7px;border-radius:4px;background:var(--rule);overflow:hidden}
.meter i{display:block;height:100%;background:var(--accent)}
.meter.some i{background:var(--warn)}.meter.full i{background:var(--bad)}
.verdict{font-size:12px;font-weight:600;white-space:nowrap;margin-right:10px}
.verdict::before{content:"";display:inline-block;width:9px;height:9px;border-radius:50%;margin-right:5px;
background:var(--mark,var(--muted))}
.verdict.passed{--mark:var(--good)}.verdict.failed{--mark:var(--bad)}
table{border-collapse:collapse;width:100%;font-size:13px}
th,td{text-align:left;vertical-align:top;padding:5px 14px 5px 0;border-bottom:1px solid var(--rule)}
th{color:var(--muted);font-weight:500;white-space:nowrap}
td{overflow-wrap:normal}
td:last-child:not(.n){min-width:240px}
tr:last-child td{border-bottom:0}
.n,td time{font-variant-numeric:tabular-nums;white-space:nowrap}
td.n,th.n{text-align:right}
.timeline td:nth-child(3){white-space:nowrap;color:var(--muted)}
.timeline td:nth-child(4){min-width:280px}
.config{width:auto}
.config td:first-child{color:var(--muted);white-space:nowrap}
.event.rejected,.event.gate_failed{color:var(--warn)}
.event.crashed,.event.out_of_memory,.event.stalled{color:var(--bad)}
.event.gate_passed{color:var(--good)}.event.started,.event.interrupted{color:var(--accent)}
.budgets{display:grid;gap:7px}
.budget{display:grid;grid-template-columns:minmax(0,290px) minmax(60px,1fr) 56px;
gap:14px;align-items:center;font-size:13px}
.budget .n{text-align:right}
details{margin:8px 0}summary{cursor:pointer;color:var(--accent);font-size:13px;padding:3px 0}
figure{margin:8px 0 14px}
figure img{display:block;border-radius:6px}
.motion img{max-width:100%;height:auto;image-rendering:pixelated}
.wide img{max-width:max(100%,56rem);height:auto}
.still{display:none}
@media (prefers-reduced-motion:reduce){.motion img{display:none}.still{display:block}}
.gone{font-style:italic}
svg{display:block;width:100%;height:auto;font:12px system-ui,-apple-system,"Segoe UI",Roboto,"DejaVu Sans",sans-serif}
svg text{fill:var(--muted)}
.state rect{fill:var(--card);stroke:var(--rule);stroke-width:1.5}
.state .name{fill:var(--muted);font-weight:600;font-size:11.5px}
.state .note{font-size:11px;font-variant-numeric:tabular-nums}
.state.visited rect{fill:var(--tint);stroke:var(--accent);stroke-opacity:.5}.state.visited .name{fill:var(--text)}
.state.current rect{fill:var(--accent);stroke:var(--accent);stroke-width:3}
.state.current .name,.state.current .note{fill:var(--card)}
.state.current.passed rect{fill:var(--good);stroke:var(--good)}
.state.current.failed rect{fill:var(--bad);stroke:var(--bad)}
.way{fill:none;stroke:var(--rule);stroke-width:1.2}.way.taken{stroke:var(--accent);stroke-width:1.9}
.head{fill:var(--rule)}.head.taken{fill:var(--accent)}
.count{font-weight:600;font-size:11.5px;fill:var(--accent)!important;stroke:var(--card);stroke-width:4;paint-order:stroke}
.plot{max-width:920px}
.plot text{font-size:11px;font-variant-numeric:tabular-nums}
.plot .name{font-size:11px}
.grid{stroke:var(--rule);stroke-width:1}.axis{stroke:var(--muted);stroke-opacity:.6}
.row{stroke:var(--rule);stroke-dasharray:2 4}
.line{fill:none;stroke:var(--kept);stroke-width:1.6;stroke-linejoin:round}
.line.repeated{stroke:var(--repeated)}.line.rate{stroke:var(--rate);stroke-width:1.2}
.line.rate.repeated{stroke:var(--repeated)}
.dot{fill:var(--kept)}.dot.repeated{fill:var(--repeated)}
.band{fill:var(--kept);opacity:.18}.band.repeated{fill:var(--repeated)}
.hover{fill:transparent}.hover:hover{fill:var(--accent);fill-opacity:.14}
.gate circle{fill:var(--mark);stroke:var(--card);stroke-width:1}
.stem{stroke:var(--mark,var(--muted));stroke-dasharray:3 3;stroke-width:1.2}
.retune{stroke:var(--bad);stroke-width:1.6}.retune-name{fill:var(--bad)!important;font-weight:600}
.threshold{stroke:var(--text);stroke-width:2.5}.key.threshold-name{fill:var(--text)}
.mse{stroke:var(--card);stroke-width:1}.mse.passed{fill:var(--good)}.mse.failed{fill:var(--bad)}
.key.passed{fill:var(--text)}
.base{fill:var(--muted)}.base.copy_last,.key.copy_last{fill:#8b6fc9}.base.mean_frame,.key.mean_frame{fill:#c08a2b}
.base.blurred_last,.key.blurred_last{fill:#3d9aa5}
footer{padding-bottom:40px}footer ul{margin:4px 0;padding-left:20px}
@media (max-width:640px){header,main,footer{padding-left:12px;padding-right:12px}
section{padding:14px 12px;border-radius:10px}
.timeline thead{display:none}
.timeline tr{display:grid;grid-template-columns:auto auto 1fr;padding:6px 0;border-bottom:1px solid var(--rule)}
.timeline td{border:0;padding:0 10px 0 0}.timeline td:nth-child(4){grid-column:1/4;min-width:0}
.budget{grid-template-columns:1fr 56px}.budget .meter{grid-column:1/3;grid-row:2}}
"""
    + DECISIONS
)

SCRIPT = """
(function () {
  // The page reloads itself: what the reader opened stays open.
  document.querySelectorAll('details[id]').forEach(function (d) {
    var key = location.pathname + '#' + d.id;
    try { if (sessionStorage.getItem(key)) d.open = true; } catch (e) {}
    d.addEventListener('toggle', function () {
      try { d.open ? sessionStorage.setItem(key, '1') : sessionStorage.removeItem(key); } catch (e) {}
    });
  });
  // On a phone the machine is wider than its box: show the present state first.
  var now = document.querySelector('.state.current'), box = now && now.closest('.wide');
  if (box) {
    var place = now.getBoundingClientRect(), frame = box.getBoundingClientRect();
    box.scrollLeft += place.left + place.width / 2 - frame.left - frame.width / 2;
  }
  // A runner that was killed cannot say so; the age of its last word can.
  var w = document.getElementById('written'), minutes = Math.floor((Date.now() - Date.parse(w.dataset.at)) / 60000);
  var life = document.querySelector('.life.running');
  if (minutes >= 1) w.textContent += ', ' + minutes + ' min ago';
  if (minutes >= 1 && life) {
    life.className = 'life stale';
    life.textContent = 'was running ' + minutes + ' min ago';
  }
})();
"""

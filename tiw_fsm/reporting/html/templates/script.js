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

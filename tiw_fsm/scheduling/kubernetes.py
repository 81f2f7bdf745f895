"""A Job for Kubernetes, with a Service by which its machines find the first."""

from __future__ import annotations

import json
import re
from pathlib import Path
from textwrap import indent

from tiw_fsm.config.flags import PORT
from tiw_fsm.errors import ExitCode, UsageProblem
from tiw_fsm.scheduling.job import VOLUME, Job

ROOT = Path("/tiw-fsm")
"""Where the pods have the working root."""
AGAIN = (ExitCode.HELD, ExitCode.INTERRUPTED)


def kubernetes(job: Job) -> str:
    """A Job, and for many machines a Service before it.

    Raises:
        UsageProblem: no image is named, or the run's name cannot be part of a host's.
    """
    machines = job.machines
    last = f"{job.name}-{machines.number - 1}"
    if not machines.image:
        raise UsageProblem("kubernetes starts containers: name an image that has tiw-fsm on its PATH with --image")
    if not re.fullmatch(r"[a-z0-9]([a-z0-9-]*[a-z0-9])?", job.run) or len(last) > 63:
        raise UsageProblem(
            f"--run {job.run}: kubernetes has it in names of hosts; take lowercase letters, digits and -, not as the "
            f"last, {63 - len(last) + len(job.run)} at the most"
        )
    script = job.inside(ROOT, "tiw-fsm")
    command = script.on_each(
        rank="$JOB_COMPLETION_INDEX", endpoint=f"{job.name}-0.{job.name}:{PORT}", join=f"exec {script.join_call}"
    )
    final = [code.value for code in ExitCode if code not in (ExitCode.PASSED, *AGAIN)]
    service, indexed, subdomain = many(job) if machines.many else ("", "", "")
    limits = f"        resources: {{limits: {{nvidia.com/gpu: {machines.gpus_per_node}}}}}\n"
    return f"""\
{service}apiVersion: batch/v1
kind: Job
metadata:
  name: {job.name}
spec:
{indexed}  # Pods killed outright, for want of memory say. The run itself counts starts without progress.
  backoffLimit: 30
  podFailurePolicy:
    rules:
    # What would come out the same again.
    - action: FailJob
      onExitCodes: {{containerName: tiw-fsm, operator: In, values: {final}}}
    # Interrupted; or held, while the locks of a lost machine outlive it.
    - action: Ignore
      onExitCodes: {{containerName: tiw-fsm, operator: In, values: {[code.value for code in AGAIN]}}}
    # Preempted, drained, evicted, lost.
    - action: Ignore
      onPodConditions: [{{type: DisruptionTarget, status: "True"}}]
  template:
    spec:
{subdomain}      restartPolicy: Never
      # The run finishes the update in hand, saves, and stops its training processes.
      terminationGracePeriodSeconds: 300
      # What your cluster wants besides goes here: nodeSelector, tolerations, priorityClassName.
      containers:
      - name: tiw-fsm
        image: {json.dumps(machines.image)}
        workingDir: {ROOT}
        command:
        - sh
        - -c
        - |
{indent(command, " " * 10)}
{limits if machines.gpus_per_node else ""}        volumeMounts:
        - {{name: root, mountPath: {ROOT}}}
        - {{name: memory, mountPath: /dev/shm}}
      volumes:
      # The working root. Many machines need a claim that is ReadWriteMany, of a file system that keeps locks.
      - name: root
        persistentVolumeClaim: {{claimName: {json.dumps(machines.volume or VOLUME)}}}
      # NCCL and data loaders need more than a container's 64 MiB.
      - name: memory
        emptyDir: {{medium: Memory}}
"""


def many(job: Job) -> tuple[str, str, str]:
    """The Service, how many pods the Job has and whose success is its own, and the domain that names them."""
    number = job.machines.number
    return (
        f"""\
apiVersion: v1
kind: Service
metadata:
  name: {job.name}
spec:
  clusterIP: None
  publishNotReadyAddresses: true
  selector:
    batch.kubernetes.io/job-name: {job.name}
---
""",
        f"""\
  completionMode: Indexed
  completions: {number}
  parallelism: {number}
  # The first has the run, the others join it.
  successPolicy:
    rules:
    - succeededIndexes: "0"
""",
        f"      subdomain: {job.name}\n",
    )

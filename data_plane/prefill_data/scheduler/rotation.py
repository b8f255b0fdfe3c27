"""Which job gets the engine next: the tenant served longest ago, then its jobs by turns."""

from collections import deque

TENANTS_REMEMBERED = 1024


class Rotation:
    """Pure: a tenant with many jobs gets no more steps than a tenant with one.

    A job that comes back after its step has its tenant's last turn remembered: it must not queue
    behind a tenant that has only just been served.
    """

    def __init__(self) -> None:
        self._jobs: dict[str, deque[str]] = {}
        self._served: dict[str, int] = {}  # tenant -> its last turn's number
        self._turns = 0

    def add(self, tenant: str, job: str) -> None:
        """Puts a job at the end of its tenant's jobs."""
        self._jobs.setdefault(tenant, deque()).append(job)

    def remove(self, tenant: str, job: str) -> None:
        """Forgets a job; unknown jobs are ignored, since cancel and finish may race."""
        jobs = self._jobs.get(tenant)
        if jobs is None or job not in jobs:
            return
        jobs.remove(job)
        if not jobs:
            del self._jobs[tenant]

    def next(self) -> str | None:
        """The job to step now, or None when there is none."""
        if not self._jobs:
            return None
        tenant = min(self._jobs, key=lambda each: self._served.get(each, 0))
        self._turns += 1
        self._served[tenant] = self._turns
        if len(self._served) > 2 * TENANTS_REMEMBERED:
            recent = self._turns - TENANTS_REMEMBERED
            self._served = {t: turn for t, turn in self._served.items() if turn > recent}
        jobs = self._jobs[tenant]
        job = jobs[0]
        jobs.rotate(-1)
        return job

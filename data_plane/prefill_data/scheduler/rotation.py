"""Which job gets the engine next: a fair rotation over tenants, then over a tenant's jobs."""

from collections import deque


class Rotation:
    """Pure: a tenant with many jobs gets no more steps than a tenant with one."""

    def __init__(self) -> None:
        self._tenants: deque[str] = deque()
        self._jobs: dict[str, deque[str]] = {}

    def add(self, tenant: str, job: str) -> None:
        """Puts a job at the end of its tenant's turn."""
        if tenant not in self._jobs:
            self._jobs[tenant] = deque()
            self._tenants.append(tenant)
        self._jobs[tenant].append(job)

    def remove(self, tenant: str, job: str) -> None:
        """Forgets a job; unknown jobs are ignored, since cancel and finish may race."""
        jobs = self._jobs.get(tenant)
        if jobs is None or job not in jobs:
            return
        jobs.remove(job)
        if not jobs:
            del self._jobs[tenant]
            self._tenants.remove(tenant)

    def next(self) -> str | None:
        """The job to step now, or None when there is none."""
        if not self._tenants:
            return None
        tenant = self._tenants[0]
        self._tenants.rotate(-1)
        jobs = self._jobs[tenant]
        job = jobs[0]
        jobs.rotate(-1)
        return job

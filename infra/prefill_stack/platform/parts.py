"""What the keeper keeps: services and our own processes, behind one interface."""

from collections.abc import Callable

from prefill_stack.services.service import Service
from prefill_stack.supervisor import Child, ProcessPlan, Supervisor, stop_child


class ServicePart:
    """PostgreSQL or Redis."""

    def __init__(self, name: str, service: Service) -> None:
        self._name, self._service = name, service

    @property
    def name(self) -> str:
        return self._name

    @property
    def pid(self) -> int | None:
        return self._service.pid

    @property
    def alive(self) -> bool:
        return self._service.alive

    def start(self) -> None:
        """Start, recovering what a crash left."""
        self._service.start()

    def stop(self) -> None:
        """Stop cleanly."""
        self._service.stop()

    def destroy(self) -> None:
        """Remove the data for good."""
        self._service.destroy()


class ProcessPart:
    """One of our processes; its plan is made at each start, so that addresses may have changed."""

    def __init__(self, name: str, supervisor: Supervisor, plan: Callable[[], ProcessPlan]) -> None:
        self._name, self._supervisor, self._plan = name, supervisor, plan
        self.child: Child | None = None

    @property
    def name(self) -> str:
        return self._name

    @property
    def pid(self) -> int | None:
        return self.child.process.pid if self.child is not None else None

    @property
    def alive(self) -> bool:
        return self.child is not None and self.child.alive

    def launch(self) -> None:
        """Start without waiting; a `start` after it only waits."""
        self.child = self._supervisor.launch(self._plan())

    def start(self) -> None:
        """Start and wait for the ready line."""
        if self.child is None:
            self.launch()
        if self.child is not None:
            self._supervisor.wait_ready(self.child)

    def stop(self) -> None:
        """SIGTERM, then SIGKILL for what ignores it."""
        if self.child is not None:
            self._supervisor.children.remove(self.child)
            stop_child(self.child)
            self.child = None

    def destroy(self) -> None:
        """Its files lie in the platform's folder: whoever owns that removes them."""

    def address(self, name: str) -> str:
        """host:port that the process reported."""
        return self.child.address(name) if self.child is not None else ""

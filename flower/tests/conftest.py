"""Messages name the run and the task that made them; in a test nobody else has set these."""

from flwr.supercore.task_identity import TaskIdentity

TaskIdentity.run_id, TaskIdentity.node_id, TaskIdentity.task_id = 1, 1, 1

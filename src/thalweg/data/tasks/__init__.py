"""The six algorithmic tasks, one file each. T(n) in their docstrings is the number of passes for length n."""

from thalweg.data.task import Task
from thalweg.data.tasks.addition import Addition
from thalweg.data.tasks.binary_sum import BinarySum
from thalweg.data.tasks.copy import Copy
from thalweg.data.tasks.multiplication import Multiplication
from thalweg.data.tasks.parity import Parity
from thalweg.data.tasks.unique_set import UniqueSet

TASKS: dict[str, Task] = {task.name: task for task in (Parity(), Copy(), Addition(), BinarySum(), Multiplication(), UniqueSet())}
"""Name of a task -> the task."""

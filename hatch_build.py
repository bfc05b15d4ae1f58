"""What a wheel holds beside the package: the studies and sweeps.

They go inside of it, as `selftrain.experiments`, so that nothing of a name as common as
`experiments` lies in everybody's site-packages. `selftrain/experiment_files.py` finds them.
"""

from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface


class WithExperiments(BuildHookInterface):
    """Adds the files of `experiments/`, without those of `experiments/speed/`."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Name the files before the wheel is built.

        Args:
            version: standard or editable.
            build_data: What hatchling asks for further files.
        """
        if version == "editable":  # then they are found in the checkout
            return
        for path in Path(self.root, "experiments").glob("*.py"):
            build_data["force_include"][str(path)] = f"selftrain/experiments/{path.name}"

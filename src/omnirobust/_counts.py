"""Where ``check_count`` was."""

from omnirobust._types import check_count as check_count

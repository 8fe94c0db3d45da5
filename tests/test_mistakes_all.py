"""Every line of the design's list of mistakes (`ERRORS`, 1 to 106) is held by a test: of a table, or of its own."""

from __future__ import annotations

import re
from pathlib import Path

import test_mistakes
import test_mistakes_of_data
import test_mistakes_of_runs

TABLES = {
    row.number
    for table in (test_mistakes.ROWS, test_mistakes_of_data.ROWS, test_mistakes_of_runs.ROWS)
    for row in table
    if row.number is not None
}
ELSEWHERE = {
    55: "tests/test_mistakes_of_data.py::test_55_the_same_pictures_in_two_splits_are_warned_of",
    59: "tests/test_downloads.py::test_what_has_another_checksum_is_not_kept",
    60: "tests/data/test_pictures.py::test_a_folder_without_permission_names_owner_and_mode",
    61: "tests/data/test_streaming.py::test_a_worker_killed_twice_at_a_sample_is_told_with_it",
    82: "tests/test_mistakes_of_data.py::test_82_no_mps",
    85: "tests/test_mistakes_of_runs.py::test_85_without_a_compiler_a_run_goes_on_uncompiled_and_says_so",
    86: "tests/test_torchvision_ops.py::test_after_the_door_torchvision_works_and_a_second_call_says_the_same",
    87: "tests/test_mistakes_of_data.py::test_87_a_package_that_is_not_installed",
    99: "tests/observers/test_saving.py::test_a_last_save_that_fails_is_an_error_not_a_warning",
    101: "tests/training/test_trainer.py::test_failing_watcher_changes_nothing_and_is_told",
    102: "tests/commands/test_train_command.py::test_a_sweep_goes_on_after_a_failure_and_ends_with_a_table",
    104: "tests/observers/test_stopping.py::test_a_signal_stops_after_the_step_with_everything_saved",
    105: "tests/observers/test_stopping.py::test_a_signal_stops_after_the_step_with_everything_saved",
    106: "tests/test_mistakes_of_runs.py::test_106_a_reader_that_leaves_ends_no_run",
}
"""Number -> a test of its own. 86 is overruled: torchvision without its operators is made to work."""
NEEDS = {
    80: "a card: with one, row 79 (device=cuda:7) is answered with the devices that there are",
    83: "a card without bf16, before compute capability 8",
}
"""Number -> what a machine must have for the line to be seen."""


def test_every_mistake_of_the_list_is_held_by_a_test_that_is_there(checkout: Path) -> None:
    assert sorted(TABLES | set(ELSEWHERE) | set(NEEDS)) == list(range(1, 107))
    assert TABLES.isdisjoint(ELSEWHERE) and TABLES.isdisjoint(NEEDS) and set(ELSEWHERE).isdisjoint(NEEDS)
    for where in ELSEWHERE.values():
        path, _, name = where.partition("::")
        assert re.search(rf"^def {name}\(", (checkout / path).read_text(encoding="utf-8"), re.MULTILINE), where

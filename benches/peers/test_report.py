"""python3 -m unittest discover benches/peers"""

import tempfile
import unittest
from pathlib import Path

import report


def result(train, evaluation=100.0):
    rate = lambda value: {"median": value, "min": value, "max": value}
    return {
        "version": "1",
        "train_steps_per_second": rate(train),
        "eval_steps_per_second": rate(evaluation),
        "peak_rss_mb": 64.0,
        "train_gflop": 2.0,
        "eval_gflop": 1.0,
        "other_cores": 0.5,
    }


def rounds(*pairs):
    floor = {"matrix_product_gflop_per_second": 400.0, "stream_gb_per_second": 20.0}
    names = ("elistimator", "peer")
    return [{"floor": floor, "programs": {n: result(t) for n, t in zip(names, pair) if t}} for pair in pairs]


class Report(unittest.TestCase):
    def test_ratios_are_taken_within_a_round(self):
        # The ratio of the medians would be 1.20.
        table = report.workload_table(rounds((100, 50), (40, 20), (60, 80)), ["elistimator", "peer"])
        self.assertEqual(table[2], "| **elistimator** | 1 | 60.0 |  | 100.0 |  | 64 |")
        self.assertEqual(table[3], "| peer | 1 | 50.0 | 2.00 (0.75 to 2.00) | 100.0 | 1.00 (1.00 to 1.00) | 64 |")

    def test_rounds_in_which_a_program_failed_do_not_count(self):
        table = report.workload_table(rounds((100, 50), (40, None)), ["elistimator", "peer", "absent"])
        self.assertEqual(len(table), 4)
        self.assertIn("| 50.0 | 2.00 |", table[3])

    def test_the_share_is_the_rate_of_our_products_over_the_large_ones(self):
        table = report.floor_table({"mlp": rounds((100, 1), (120, 1), (20, 1))})
        self.assertEqual(table[2], "| mlp | 2.00 | 200 | 400 | 50% | 25% | 20.0 |")

    def test_a_busy_machine_is_called_one(self):
        self.assertIn("not a quiet machine", report.quiet({"mlp": rounds((1, 1))}, threads=2)[1])
        self.assertNotIn("not a quiet machine", report.quiet({"mlp": rounds((1, 1))}, threads=16)[1])

    def test_the_section_is_replaced_and_the_rest_kept(self):
        with tempfile.TemporaryDirectory() as directory:
            page = Path(directory) / "page.md"
            page.write_text(f"before\n{report.BEGIN}\nold\n{report.END}\nafter\n")
            for section in ("one\n", "two\n"):
                report.write_section(page, section)
            self.assertEqual(page.read_text(), f"before\n{report.BEGIN}\n\ntwo\n\n{report.END}\nafter\n")
            page.write_text("no markers\n")
            with self.assertRaises(SystemExit):
                report.write_section(page, "one\n")


if __name__ == "__main__":
    unittest.main()

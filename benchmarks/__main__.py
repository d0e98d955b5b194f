"""Command line: `compare`, `memory`, `profile`, `work` and `page`."""

from __future__ import annotations

import argparse
import sys

from .compare import PEERS, compare
from .plan import MODES

__all__ = ["main"]


def main() -> int:
    """Runs a command; returns its exit code."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    one = commands.add_parser("compare", help="this package beside the floors and other clients")
    one.add_argument("--turns", type=int, nargs="+", default=[10, 30, 100], help="requests of a rollout")
    one.add_argument("--peers", nargs="*", choices=PEERS, help="default: all that are installed")
    one.add_argument(
        "--mode", nargs="+", choices=[*MODES, "all"], default=list(MODES[:3]), help="default: all but network"
    )
    one.add_argument("--runs", type=int, help="rounds; default 5")
    one.add_argument(
        "--conversations", type=int, nargs="+", default=[16, 100, 500], help="conversations at once"
    )
    one.add_argument("--json", metavar="FILE", help="write everything that was measured")
    one.add_argument("--svg", metavar="DIR", help="write charts")
    one.add_argument("--quick", action="store_true", help="two rounds of what does not take long")
    one.add_argument("--seed", type=int, default=0, help="of the order of measurements")
    one.add_argument("--emulator", choices=["auto", "netem", "relay"], default="auto")
    two = commands.add_parser("memory", help="tables and cost of a very long conversation")
    two.add_argument("--turns", type=int, default=1000)
    two.add_argument("--runs", type=int, default=3)
    three = commands.add_parser("profile", help="where the time of a rollout goes, by module and function")
    three.add_argument("--turns", type=int, default=100)
    three.add_argument("--call", choices=["invoke", "ainvoke", "stream", "astream"], default="invoke")
    three.add_argument("--repeat", type=int, default=30, help="rollouts")
    three.add_argument("--agent", action="store_true", help="of an agent with a checkpointer; invoke only")
    four = commands.add_parser(
        "work", help="what is counted in each turn: conversions, parses, frames, hashes"
    )
    four.add_argument("--turns", type=int, default=40)
    five = commands.add_parser("page", help="writes the documentation's page from files that compare wrote")
    five.add_argument("runs", nargs="+", metavar="FILE", help="of `compare --json`, of one machine and day")
    five.add_argument("--profile", metavar="FILE", nargs="+", help="what `profile` printed, each time")
    five.add_argument("--memory", metavar="FILE", help="what `memory` printed")
    five.add_argument(
        "--note", default="", metavar="TEXT", help="about the run, such as what else was running"
    )
    five.add_argument("--out", default="docs/explanation/performance.md", metavar="FILE")
    given = parser.parse_args()
    if given.command == "compare":
        return compare(given)
    if given.command == "memory":
        from .memory import memory

        return memory(given.turns, given.runs)
    if given.command == "profile":
        from .profiling import profile

        if given.agent and given.call != "invoke":
            parser.error("--agent is measured with --call invoke")
        return profile(given.turns, given.call, given.repeat, agent=given.agent)
    if given.command == "page":
        from .page import write_page

        return write_page(given)
    from .work import work

    return work(given.turns)


if __name__ == "__main__":
    sys.exit(main())

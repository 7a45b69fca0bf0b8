"""`python -m course_lib.site [--output FOLDER]`: build the site. A warning of Sphinx is an error."""

import argparse
import shutil
import sys
import tempfile
from pathlib import Path

from sphinx.cmd.build import build_main

from course_lib.site import tree

OUTPUT = tree.REPOSITORY / "build" / "site"


def build(output: Path) -> int:
    """Build the site in `output`; Sphinx' exit status. A site that is there is replaced only by a whole one."""
    with tempfile.TemporaryDirectory(prefix="course-site-") as temporary:
        source, html = Path(temporary) / "source", Path(temporary) / "html"
        tree.write(source)
        options = ["-q", "-W", "--keep-going", "-b", "html", "-c", str(Path(__file__).parent)]
        if status := build_main([*options, "-d", f"{temporary}/doctrees", str(source), str(html)]):
            return status
        if output.exists():
            shutil.rmtree(output)
        shutil.copytree(html, output)
    return 0


def main(argv: list[str] | None = None) -> int:
    """The command line; 0 if the site was built."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path, default=OUTPUT, help="where to (default build/site)")
    args = parser.parse_args(argv)
    if status := build(args.output.resolve()):
        print(f"No site was built: see the messages above. {args.output} is as it was.", file=sys.stderr)
        return status
    print(f"The site: {args.output / 'index.html'}")
    return 0


if __name__ == "__main__":
    sys.exit(main())

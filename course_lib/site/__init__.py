"""The course as static pages: `make site`, or `python -m course_lib.site`, writes them to `build/site`.

The lectures with the outputs that they carry, the exercises without their solutions, errata, glossary, and the
reference of the library. Nothing is executed, and the pages need no network: they can be read from a disk.

`pages` decides what is a page and rewrites its text, `tree` writes Sphinx' sources into a temporary folder, `hooks` are
what Sphinx is asked to do otherwise, `conf` its settings. The texts themselves stay where they are.
"""

"""Files that are made for people to work in: what somebody changed since is kept, unless told otherwise.

A manifest beside the files holds the SHA-256 of each as it was handed out. A file that is neither that nor what is to
be written is somebody's work.
"""

import hashlib
import json
from pathlib import Path

from course_lib.classroom.execute import write_atomically

MANIFEST = ".released.json"


def hand_out(files: dict[str, bytes], output: Path, force: bool = False) -> list[str]:
    """Write name → content below `output`; returns the names of those that were changed there, and so kept."""
    output.mkdir(parents=True, exist_ok=True)
    manifest = output / MANIFEST
    released = json.loads(manifest.read_text(encoding="utf-8")) if manifest.exists() else {}
    kept = []
    for name, content in files.items():
        path = output / name
        digest = hashlib.sha256(content).hexdigest()
        present = hashlib.sha256(path.read_bytes()).hexdigest() if path.exists() else None
        if present not in (None, released.get(name), digest) and not force:
            kept.append(name)
            continue
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, content)
        released[name] = digest
    text = json.dumps(released, indent=1, sort_keys=True) + "\n"
    write_atomically(manifest, text.encode())
    return kept

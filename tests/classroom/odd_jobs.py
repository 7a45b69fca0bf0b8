"""What the workers do in the tests of the workers; apart, because a worker imports the module of its job."""

import os
import subprocess


def work(job):
    """Do what `job["do"]` says."""
    if job["do"] == "die":
        os._exit(3)
    if job["do"] == "raise":
        raise ValueError("no")
    if job["do"] == "hang":
        subprocess.run(["sleep", "600"])
    return {"state": "judged", "pid": os.getpid()}

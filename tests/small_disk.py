"""A disk that is full, for real programs: a small file system of memory, where one may be mounted.

It is mounted in a namespace of the program's own, so nothing of it is left when the program ends,
however it ends. Where the system allows no namespaces, the size of files is limited instead, and
writing fails at the same places, with other words.
"""

import functools
import shlex
import subprocess

NAMESPACES = (["unshare", "--mount"], ["unshare", "--mount", "--map-root-user"])
ROOM = 40_000
MOUNTED = """
mount -t tmpfs -o size=64m tmpfs {folder}
cp -a {content}/. {folder}
dd if=/dev/zero of={folder}/filling bs=1k 2>/dev/null
truncate -s -{room} {folder}/filling
"$@"
status=$?
rm {folder}/filling
cp -a {folder}/. {content}
exit $status
"""
LIMITED = """
cp -a {content}/. {folder}
(ulimit -f {blocks} && "$@")
status=$?
cp -a {folder}/. {content}
exit $status
"""


@functools.cache
def _namespace():
    """The command that gives a program mounts of its own; None where none is permitted."""
    probe = "mount -t tmpfs tmpfs /mnt"
    for command in NAMESPACES:
        try:
            finished = subprocess.run([*command, "sh", "-c", probe], capture_output=True)
        except FileNotFoundError:
            continue
        if finished.returncode == 0:
            return command
    return None


def run(arguments, folder, content, timeout):
    """Runs a program while a folder is an almost full disk; (status, stdout, stderr).

    Args:
      arguments: the program and its arguments.
      folder: where the disk is while it runs.
      content: a folder with what is on the disk at the start; afterwards with what is left there.
      timeout: in seconds.
    """
    namespace = _namespace()
    script = (MOUNTED if namespace else LIMITED).format(
        folder=shlex.quote(str(folder)),
        content=shlex.quote(str(content)),
        room=ROOM,
        blocks=ROOM // 512,
    )
    finished = subprocess.run(
        [*(namespace or []), "sh", "-c", script, "sh", *arguments],
        capture_output=True,
        text=True,
        timeout=timeout,
    )
    return finished.returncode, finished.stdout, finished.stderr

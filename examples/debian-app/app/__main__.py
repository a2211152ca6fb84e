"""Renders a greeting with a library from the virtual environment, and asks the setuid helper who we are."""

import os
import pwd
import subprocess
import sys

from jinja2 import Template

TEXT = """\
Hello, {{ name }}!
user {{ user }} in {{ folder }}
identity {{ identity }}
state {{ "%o" | format(mode) }}
"""

print(
    Template(TEXT).render(
        name=" ".join(sys.argv[1:]),
        user=pwd.getpwuid(os.getuid()).pw_name,
        folder=os.getcwd(),
        identity=subprocess.run(["identity"], capture_output=True, check=True, text=True).stdout.strip(),
        mode=os.stat("/var/lib/app").st_mode & 0o7777,
    )
)

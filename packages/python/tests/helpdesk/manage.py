"""A help desk that was a Django project before it came behind a gate: its own user model, sessions, forms, the admin."""

import os
import sys

from django.core.management import execute_from_command_line

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "desk.settings")
execute_from_command_line(sys.argv)

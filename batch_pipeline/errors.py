"""The one exception that crosses every layer: a refusal that the user can mend."""


class Refused(Exception):
    """Work was refused for a reason the user can mend.

    ``str(error)`` is one sentence that names the file, the line and the mend, as far as they
    apply, and holds no personal data: it is printed, logged and kept by Dagster. The shell turns it
    into exit code 1 without a traceback.
    """

"""Where servers can run. A module here with a ``create_launcher(settings)`` is a launcher; its name is the launcher's.

Nothing is imported here: the guardian loads its module without the rest of the app.
"""

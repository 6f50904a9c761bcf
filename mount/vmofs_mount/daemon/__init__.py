"""The process that serves a mount: its options, its watchdog, what it tells systemd."""

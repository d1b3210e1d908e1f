"""Jobs that wait, the thread that works on them, and what is known of both."""

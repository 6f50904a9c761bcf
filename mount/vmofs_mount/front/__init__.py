"""What comes from the kernel, and what goes back: mounting, handlers of requests, unmounting."""

"""The text of the control files and of the request lines: pure functions over bytes and str."""

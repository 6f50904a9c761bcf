"""The copies that the kernel has of pages, sizes and errors, and how they are kept true."""

"""VMOs of all kinds, the copy-on-write pages below them, and the steps of each call on them."""

"""The sans-IO model: page states, VMOs, ports, pagers. No clock, no locks, no FUSE."""

"""The FUSE filesystem that shows the model of vmofs.core as files."""

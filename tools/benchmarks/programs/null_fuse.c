/* null_fuse MOUNT FILE: "C null", one file that is answered at once from memory, on libfuse's low-level API. */
#define FUSE_USE_VERSION 312
#include "object.h"
#include <fuse_lowlevel.h>

enum { OBJECT = 2 };
static char *data;
static uint64_t size;

static struct stat attributes(fuse_ino_t ino)
{
	struct stat s = { .st_ino = ino, .st_nlink = 1, .st_mode = S_IFDIR | 0755 };
	if (ino == OBJECT) {
		s.st_mode = S_IFREG | 0644;
		s.st_size = size;
	}
	return s;
}

static void do_getattr(fuse_req_t request, fuse_ino_t ino, struct fuse_file_info *info)
{
	struct stat s = attributes(ino);
	(void)info;
	fuse_reply_attr(request, &s, 300);
}

static void do_lookup(fuse_req_t request, fuse_ino_t parent, const char *name)
{
	struct fuse_entry_param e = { .ino = OBJECT, .attr = attributes(OBJECT), .attr_timeout = 300, .entry_timeout = 300 };
	(void)parent;
	if (strcmp(name, "object"))
		fuse_reply_err(request, ENOENT);
	else
		fuse_reply_entry(request, &e);
}

static void do_open(fuse_req_t request, fuse_ino_t ino, struct fuse_file_info *info)
{
	(void)ino;
	info->keep_cache = 1;
	fuse_reply_open(request, info);
}

static void do_read(fuse_req_t request, fuse_ino_t ino, size_t length, off_t offset, struct fuse_file_info *info)
{
	(void)ino, (void)info;
	if ((uint64_t)offset >= size)
		length = 0;
	else if (length > size - offset)
		length = size - offset;
	fuse_reply_buf(request, data + offset, length);
}

static const struct fuse_lowlevel_ops operations = {
	.lookup = do_lookup, .getattr = do_getattr, .open = do_open, .read = do_read,
};

int main(int c, char **v)
{
	if (c != 3)
		return 2;
	int fd = open(v[2], O_RDONLY);
	struct stat st;
	if (fd < 0 || fstat(fd, &st))
		die(v[2]);
	size = st.st_size;
	data = mmap(NULL, size, PROT_READ, MAP_SHARED | MAP_POPULATE, fd, 0);
	if (data == MAP_FAILED)
		die("mmap");
	char *arguments[] = { v[0], "-ofsname=null", NULL };
	struct fuse_args a = FUSE_ARGS_INIT(2, arguments);
	struct fuse_session *session = fuse_session_new(&a, &operations, sizeof operations, NULL);
	if (!session || fuse_set_signal_handlers(session) || fuse_session_mount(session, v[1]))
		return 1;
	fuse_session_loop(session);
	fuse_session_unmount(session);
	return 0;
}

/*
 * The one client of every peer. Prints one JSON object; ends with 1 if a page was wrong.
 *
 *   client fill FILE BYTES                              write the object
 *   client miss FILE [how=pread|mmap] [n=] [threads=] [seed=]     random pages, none in the kernel's cache
 *   client seq FILE [bs=BYTES] [keep=0|1] [most=BYTES]  one pass; keep=1: with what the kernel's cache holds
 *   client resident FILE PAGES                          wait until the kernel's cache holds so many pages
 *   client check FILE BYTES                             that all these bytes are right
 */
#include "object.h"

static int fd, argc;
static char **argv;
static uint64_t size;

static const char *option(const char *name, const char *otherwise)
{
	size_t n = strlen(name);
	for (int i = 3; i < argc; i++)
		if (!strncmp(argv[i], name, n) && argv[i][n] == '=')
			return argv[i] + n + 1;
	return otherwise;
}

static void fill(const char *path, uint64_t bytes)
{
	fd = open(path, O_RDWR | O_CREAT | O_TRUNC, 0644);
	if (fd < 0 || ftruncate(fd, bytes))
		die(path);
	uint64_t *p = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	if (p == MAP_FAILED)
		die("mmap");
	for (uint64_t i = 0; i < bytes / 8; i++)
		p[i] = KEY + i;
	printf("{\"bytes\":%lu}\n", bytes);
}

static size_t resident(void)
{
	static unsigned char *vec;
	size_t n = size / PAGE, count = 0;
	if (!vec)
		vec = malloc(n);
	void *m = mmap(NULL, size, PROT_READ, MAP_SHARED, fd, 0);
	if (m == MAP_FAILED || mincore(m, size, vec))
		die("mincore");
	munmap(m, size);
	for (size_t i = 0; i < n; i++)
		count += vec[i] & 1;
	return count;
}

/*
 * Looks at the end of the file only until it is there: a look at all of 1 GiB would take part in the race. A kernel that
 * reclaims what is not touched may have taken pages meanwhile, so it also ends when there do not get more.
 */
static void wait_resident(size_t pages)
{
	double began = now_us(), at = began;
	unsigned char last = 0;
	void *m = mmap(NULL, size, PROT_READ, MAP_SHARED, fd, 0);
	if (m == MAP_FAILED)
		die("mmap");
	while (!(last & 1) && now_us() - began < 60e6) {
		usleep(200);
		at = now_us();
		if (mincore((char *)m + size - PAGE, PAGE, &last))
			die("mincore");
	}
	size_t most = resident();
	for (int looks = 0; most < pages && looks < 20; looks++) {
		usleep(1000);
		double now = now_us();
		size_t n = resident();
		if (n > most)
			most = n, at = now, looks = 0;
	}
	printf("{\"resident\":%zu,\"at\":%.6f}\n", most, at / 1e6);
}

/* n distinct pages of the object in random order (Fisher-Yates, as far as needed). */
static uint32_t *sample(uint32_t n, uint64_t seed)
{
	uint32_t all = size / PAGE, *p = malloc(all * sizeof *p);
	uint64_t x = seed * 2654435761u + 88172645463325252ULL;
	for (uint32_t i = 0; i < all; i++)
		p[i] = i;
	for (uint32_t i = 0; i < n; i++) {
		x ^= x << 13, x ^= x >> 7, x ^= x << 17;
		uint32_t j = i + x % (all - i), t = p[i];
		p[i] = p[j], p[j] = t;
	}
	return p;
}

static char *map; /* NULL: pread */
static uint32_t *pages;
static double *latency;
static pthread_barrier_t barrier;

struct part {
	uint32_t from, to;
	long bad;
};

static void *read_part(void *arg)
{
	struct part *part = arg;
	char *buffer = aligned_alloc(PAGE, PAGE);
	pthread_barrier_wait(&barrier);
	for (uint32_t i = part->from; i < part->to; i++) {
		uint64_t offset = pages[i] * PAGE, expected = KEY + pages[i] * WORDS;
		const volatile uint64_t *words = (void *)(map ? map + offset : buffer);
		double began = now_us();
		int bad = !map && pread(fd, buffer, PAGE, offset) != (ssize_t)PAGE;
		bad |= words[0] != expected;
		latency[i] = now_us() - began;
		part->bad += bad || words[WORDS - 1] != expected + WORDS - 1;
	}
	free(buffer);
	return NULL;
}

static int by_value(const void *a, const void *b)
{
	double x = *(const double *)a, y = *(const double *)b;
	return x < y ? -1 : x > y;
}

static int miss(void)
{
	uint32_t n = atoi(option("n", "1000")), threads = atoi(option("threads", "1"));
	if (n > size / PAGE)
		n = size / PAGE;
	posix_fadvise(fd, 0, 0, POSIX_FADV_DONTNEED);
	posix_fadvise(fd, 0, 0, POSIX_FADV_RANDOM);
	size_t before = resident();
	if (!strcmp(option("how", "pread"), "mmap")) {
		map = mmap(NULL, size, PROT_READ, MAP_SHARED, fd, 0);
		if (map == MAP_FAILED)
			die("mmap");
		madvise(map, size, MADV_RANDOM);
	}
	latency = calloc(n, sizeof *latency);
	pages = sample(n, atoi(option("seed", "1")));
	pthread_t ids[threads];
	struct part parts[threads];
	pthread_barrier_init(&barrier, NULL, threads + 1);
	for (uint32_t i = 0; i < threads; i++) {
		parts[i] = (struct part){ (uint64_t)n * i / threads, (uint64_t)n * (i + 1) / threads, 0 };
		pthread_create(&ids[i], NULL, read_part, &parts[i]);
	}
	pthread_barrier_wait(&barrier);
	double began = now_us();
	long bad = 0;
	for (uint32_t i = 0; i < threads; i++) {
		pthread_join(ids[i], NULL);
		bad += parts[i].bad;
	}
	double took = now_us() - began;
	qsort(latency, n, sizeof *latency, by_value);
	printf("{\"n\":%u,\"rate\":%.1f,\"resident_before\":%zu,\"bad\":%ld,\"quantiles\":[", n, n / took * 1e6, before, bad);
	for (uint32_t i = 0; i <= 200; i++)
		printf("%s%.2f", i ? "," : "", latency[(uint64_t)(n - 1) * i / 200]);
	printf("]}\n");
	return bad != 0;
}

static int seq(void)
{
	size_t bs = strtoull(option("bs", "1048576"), NULL, 0);
	char *buffer = aligned_alloc(PAGE, bs);
	memset(buffer, 0, bs);
	if (!atoi(option("keep", "0")))
		posix_fadvise(fd, 0, 0, POSIX_FADV_DONTNEED);
	size_t before = resident();
	long bad = 0;
	uint64_t offset = 0, most = strtoull(option("most", "-1"), NULL, 0);
	double began = now_us();
	while (offset < size && offset < most) {
		ssize_t n = read(fd, buffer, bs);
		if (n <= 0 || n % 8)
			die("read");
		const uint64_t *words = (void *)buffer;
		bad += words[0] != KEY + offset / 8 || words[n / 8 - 1] != KEY + (offset + n) / 8 - 1;
		offset += n;
	}
	double took = now_us() - began;
	printf("{\"bytes\":%lu,\"seconds\":%.6f,\"resident_before\":%zu,\"bad\":%ld}\n", offset, took / 1e6, before, bad);
	return bad != 0;
}

static int check(uint64_t bytes)
{
	size_t before = resident();
	const uint64_t *words = mmap(NULL, size, PROT_READ, MAP_SHARED, fd, 0);
	if (words == MAP_FAILED)
		die("mmap");
	long bad = 0;
	for (uint64_t i = 0; i < bytes / 8; i++)
		bad += words[i] != KEY + i;
	printf("{\"resident\":%zu,\"bad\":%ld}\n", before, bad);
	return bad != 0;
}

int main(int c, char **v)
{
	argc = c, argv = v;
	if (c >= 4 && !strcmp(v[1], "fill")) {
		fill(v[2], strtoull(v[3], NULL, 0));
		return 0;
	}
	struct stat st;
	if (c < 3 || (fd = open(v[2], O_RDONLY)) < 0 || fstat(fd, &st))
		die(c < 3 ? "usage" : v[2]);
	size = st.st_size;
	if (c >= 4 && !strcmp(v[1], "resident")) {
		wait_resident(strtoull(v[3], NULL, 0));
		return 0;
	}
	if (c >= 4 && !strcmp(v[1], "check"))
		return check(strtoull(v[3], NULL, 0));
	return !strcmp(v[1], "miss") ? miss() : !strcmp(v[1], "seq") ? seq() : 2;
}

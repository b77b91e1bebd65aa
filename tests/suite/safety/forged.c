/*
 * A process that pretends to be a backend: the names and variables that tell a PostgreSQL server, with whatever values
 * do the most harm. It notes each signal that it gets.
 *
 * forged HOW POSTMASTER TITLE
 *
 * HOW is a list of words (see main()); POSTMASTER is the PID that it names as its postmaster, or "own" for one of its
 * own making. Prints the PID of what pretends to be the backend, and a line for each signal.
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <pthread.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

/* A page of its own, which "silent" never fills. */
int			MyProcPid __attribute__((aligned(4096), section(".bss")));
char		rest_of_page[4092];
bool		IsUnderPostmaster;
int			PostmasterPid;
volatile int InterruptPending = 1;
volatile int QueryCancelPending = 1;
volatile int ProcDiePending;
volatile int ProcSignalBarrierPending;
volatile unsigned InterruptHoldoffCount;
volatile unsigned QueryCancelHoldoffCount;
volatile unsigned CritSectionCount;
bool		proc_exit_inprogress;
bool		ClientAuthInProgress;
void	   *PG_exception_stack = &PG_exception_stack;
void	   *MyProc;
int			MyBackendType = 4;		/* a client's, in 15 */
void	   *MyBEEntry;
void	   *my_wait_event_info;
const char *debug_query_string = "SELECT '\033]0;owned\007\033[2J\xe2\x80\xae'";
char	   *cluster_name = "\033[31mcluster";
char	   *DataDir = "/\033[2J";
void	   *CurrentMemoryContext;
void	   *ErrorContext;
void	   *MyProcPort;
void	   *ProcGlobal;
void	   *MainLWLockArray;
void	   *NamedLWLockTrancheArray;
int			NamedLWLockTrancheRequests = 0x7fffffff;
int			pgStatSessionEndCause;
void	   *PqCommMethods;
const char version[] = "postgres (PostgreSQL) 15.18 (Debian 15.18-0+deb12u1)\n";

static void
note(const char *what)
{
	if (write(1, what, strlen(what)) < 0)
		_exit(3);
}

void
ProcessInterrupts(void)
{
	note("called\n");
}

void
StatementCancelHandler(int signal)
{
	note("SIGINT\n");
}

void
die(int signal)
{
	note("SIGTERM\n");
}

static void
leave(int signal)
{
	_exit(0);
}

void
procsignal_sigusr1_handler(int signal)
{
	note("SIGUSR1\n");
}

/* Endless, and deep: a frame for each level. */
__attribute__((noinline)) int
PostgresMain(int depth)
{
	volatile int here = depth;

	if (depth > 0)
		return PostgresMain(depth - 1) + here;
	for (;;)
		here++;
}

static void *
map_and_unmap(void *unused)
{
	for (;;)
	{
		void	   *at[64];

		for (int i = 0; i < 64; i++)
			at[i] = mmap(NULL, 4096 * (1 + i % 3), PROT_READ | (i % 2 ? PROT_EXEC : 0),
						 MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
		for (int i = 0; i < 64; i++)
			munmap(at[i], 4096 * (1 + i % 3));
	}
	return NULL;
}

/* The same file many thousand times, so that the kernel cannot join the mappings. */
static void
map_much(void)
{
	int			self = open("/proc/self/exe", O_RDONLY);

	for (int i = 0; i < 30000; i++)
		mmap(NULL, 4096, PROT_READ | PROT_EXEC, MAP_PRIVATE, self, 0);
}

static void
point_everything_at(void *there)
{
	MyProc = MyBEEntry = my_wait_event_info = PG_exception_stack = there;
	CurrentMemoryContext = ErrorContext = MyProcPort = ProcGlobal = there;
	MainLWLockArray = NamedLWLockTrancheArray = PqCommMethods = there;
}

/* Whoever reads the page of MyProcPid waits for us, and we have nothing to say. */
static void
fall_silent(void)
{
	int			fd = syscall(SYS_userfaultfd, O_CLOEXEC);
	struct uffdio_api api = {.api = UFFD_API};
	struct uffdio_register page = {
		.range = {(uintptr_t) &MyProcPid, 4096},
		.mode = UFFDIO_REGISTER_MODE_MISSING,
	};

	madvise(&MyProcPid, 4096, MADV_DONTNEED);
	if (fd < 0 || ioctl(fd, UFFDIO_API, &api) != 0 || ioctl(fd, UFFDIO_REGISTER, &page) != 0)
	{
		perror("userfaultfd");
		exit(3);
	}
}

/* Another executable than the file that it was started from. */
static void
be_in_memory(char **argv)
{
	static char bytes[4 << 20];
	int			self = open("/proc/self/exe", O_RDONLY);
	int			copy = memfd_create("postgres\033[2J", 0);
	ssize_t		size = read(self, bytes, sizeof bytes);

	if (write(copy, bytes, size) != size)
		exit(3);
	setenv("IN_MEMORY", "1", 1);
	fexecve(copy, argv, environ);
	perror("fexecve");
	exit(3);
}

int
main(int argc, char **argv)
{
	char	   *how = argv[1];
	char	   *postmaster = argv[2];
	pthread_t	thread;

	if (strstr(how, "memfd") && !getenv("IN_MEMORY"))
		be_in_memory(argv);
	if (strstr(how, "deleted"))
		unlink(argv[0]);
	signal(SIGINT, StatementCancelHandler);
	signal(SIGTERM, die);
	signal(SIGUSR1, procsignal_sigusr1_handler);
	signal(SIGUSR2, leave);

	if (strstr(how, "silent"))
		fall_silent();
	if (getuid() == 0 && getenv("AS_USER"))
		if (setgid(65534) != 0 || setuid(65534) != 0)
			return 3;
	prctl(PR_SET_DUMPABLE, 1);

	IsUnderPostmaster = !strstr(how, "standalone");
	if (strcmp(postmaster, "own") == 0)
	{
		/* As a postmaster has it. */
		IsUnderPostmaster = false;
		MyProcPid = PostmasterPid = getpid();
		if (fork() != 0)
			for (;;)
				pause();
		IsUnderPostmaster = true;
	}
	else
		PostmasterPid = atoi(postmaster);
	if (!strstr(how, "silent"))
		MyProcPid = getpid();

	if (strstr(how, "wild"))
		point_everything_at((void *) 0x7ffffffff000);
	if (strstr(how, "high"))
		point_everything_at((void *) UINT64_MAX);
	if (strstr(how, "cyclic"))
	{
		void	  **all = mmap(NULL, 1 << 20, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

		for (int i = 0; i < (1 << 20) / 8; i++)
			all[i] = all + 512;
		point_everything_at(all + 512);
	}
	if (strstr(how, "ones"))
	{
		void	   *all = mmap(NULL, 1 << 20, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

		memset(all, 0x7f, 1 << 20);
		point_everything_at((char *) all + 4096);
	}
	if (strstr(how, "device"))
		point_everything_at(mmap(NULL, 1 << 20, PROT_READ, MAP_SHARED, open("/dev/zero", O_RDONLY), 0));
	if (strstr(how, "vsyscall"))
		point_everything_at((void *) 0xffffffffff600000);
	if (strstr(how, "many"))
		map_much();
	if (strstr(how, "churn"))
		pthread_create(&thread, NULL, map_and_unmap, NULL);

	prctl(PR_SET_NAME, "post\033[2Jgres");
	dprintf(1, "%d\n", getpid());
	/* The title lies where the arguments were; there is room in the last. */
	memset(argv[0], 0, argv[argc - 1] + strlen(argv[argc - 1]) - argv[0]);
	strcpy(argv[0], "postgres: \033[1mu d [local] SELECT");
	return PostgresMain(strstr(how, "deep") ? 20000 : 3);
}

/*
 * Victims: backends that watch, from the inside, what is done to them.
 *
 * What they see goes to a file that the test has mapped, too, so that it can
 * be read, and waited for, without another signal or statement.
 */
#include "postgres.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/futex.h>
#include <poll.h>
#include <semaphore.h>
#include <signal.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>
#ifdef __x86_64__
#include <cpuid.h>
#endif

#include "fmgr.h"
#include "miscadmin.h"
#include "storage/procsignal.h"
#include "utils/builtins.h"

#include "pgpoke_registers.h"

/* Signals 1 to 64. */
#define SIGNALS 65
#define MOST_RETURNS 128

/* tests/suite/safety/seen.rs has the same. */
typedef struct Seen
{
	/* The process whose signals are counted. */
	volatile int64 sender;
	/* By signal: how many of the sender's, of anybody else's, and in the wrong order. */
	volatile int64 counted[SIGNALS];
	volatile int64 others[SIGNALS];
	volatile int64 wrong[SIGNALS];
	/* Calls of pgpoke_counts() that are inside. */
	volatile int64 inside;
	/* Rounds of a loop. */
	volatile int64 rounds;
	/* Whether to end. */
	volatile int64 end;
	/* A child, and what its parent was told of it. */
	volatile int64 child;
	volatile int64 told_stopped;
	volatile int64 told_continued;
	/* Blocking calls: how many returned, and with what. */
	volatile int64 returns;
	volatile int64 result[MOST_RETURNS];
	volatile int64 error[MOST_RETURNS];
	/* What was left of the time, in ns, and how long it had taken until then. */
	volatile int64 left[MOST_RETURNS];
	volatile int64 elapsed[MOST_RETURNS];
	/* What is waited for. */
	volatile uint32 word;
	uint32		padding;
	union
	{
		sem_t		semaphore;
		char		room[64];
	};
} Seen;

static Seen *seen;

/*
 * Maps the file.  What was mapped before stays so: a handler may still know it.
 */
static void
map_seen(text *path)
{
	int			fd = open(text_to_cstring(path), O_RDWR);
	void	   *at;

	if (fd < 0)
		elog(ERROR, "could not open the file: %m");
	at = mmap(NULL, sizeof(Seen), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	close(fd);
	if (at == MAP_FAILED)
		elog(ERROR, "mmap: %m");
	seen = at;
}

/*
 * PostgreSQL lets the alarm of a timeout that was met run on (timeout.c), as
 * that of authentication_timeout; it comes later, for nothing, and would end
 * a blocking call.
 */
static void
no_alarm(void)
{
	struct itimerval none = {{0, 0}, {0, 0}};

	setitimer(ITIMER_REAL, &none, NULL);
}

static void
say_inside(const char *function)
{
	ereport(NOTICE, (errmsg("%s() is stuck from here on", function)));
}

static int64
now_ns(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (int64) ts.tv_sec * 1000000000 + ts.tv_nsec;
}

/* ---- Signals ---- */

static struct sigaction before_usr1;
static bool chained = false;

/*
 * Counts.  A value, where there is one, is the signal's number in the upper
 * half and its place in the order in the lower.
 */
static void
count(int signo, siginfo_t *info, void *context)
{
	int			saved = errno;

	if (info->si_pid == (pid_t) seen->sender)
	{
		int64		nth = seen->counted[signo] + 1;
		int64		value = (int64) (intptr_t) info->si_value.sival_ptr;

		/* Each to the thread that it was sent to, and as what it was sent. */
		if (info->si_signo != signo || syscall(SYS_gettid) != getpid())
			seen->wrong[signo]++;
		if (info->si_code == SI_QUEUE && value != (((int64) signo) << 32 | nth))
			seen->wrong[signo]++;
		seen->counted[signo] = nth;
	}
	else
		seen->others[signo]++;
	if (signo == SIGUSR1 && chained)
	{
		if (before_usr1.sa_flags & SA_SIGINFO)
			before_usr1.sa_sigaction(signo, info, context);
		else
			before_usr1.sa_handler(signo);
	}
	errno = saved;
}

static void
count_signal(int signo, int flags)
{
	struct sigaction action;

	memset(&action, 0, sizeof(action));
	action.sa_sigaction = count;
	action.sa_flags = SA_RESTART | SA_SIGINFO | flags;
	sigemptyset(&action.sa_mask);
	sigaction(signo, &action, NULL);
}

/* SIGUSR1 is PostgreSQL's own, which goes on to get it. */
static void
chain_usr1(int flags)
{
	if (!chained)
		sigaction(SIGUSR1, NULL, &before_usr1);
	chained = true;
	count_signal(SIGUSR1, flags);
}

/*
 * Counts signals, by handlers that stay when the statement is over.  With
 * pending, an interrupt is, as if a cancel had come.
 */
PG_FUNCTION_INFO_V1(pgpoke_counts);
Datum
pgpoke_counts(PG_FUNCTION_ARGS)
{
	static const int standard[] = {SIGINT, SIGALRM, SIGHUP, SIGCHLD};

	map_seen(PG_GETARG_TEXT_PP(0));
	chain_usr1(0);
	for (int i = 0; i < (int) lengthof(standard); i++)
		count_signal(standard[i], 0);
	for (int i = 1; i <= 3; i++)
		count_signal(SIGRTMIN + i, 0);
	say_inside(__func__);
	if (PG_GETARG_BOOL(1))
	{
		QueryCancelPending = true;
		InterruptPending = true;
	}
	seen->inside++;
	while (!seen->end)
		seen->rounds++;
	PG_RETURN_VOID();
}

/*
 * A parent that counts what it is told of a child's stops, as a shell would
 * be.  The child computes, and catches SIGUSR1.
 */
PG_FUNCTION_INFO_V1(pgpoke_parent);
Datum
pgpoke_parent(PG_FUNCTION_ARGS)
{
	pid_t		child;
	int			status;

	map_seen(PG_GETARG_TEXT_PP(0));
	/* Not the postmaster's child, and not one that PostgreSQL's handler is for. */
	child = fork();
	if (child == 0)
	{
		setsid();
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		chained = false;
		count_signal(SIGUSR1, 0);
		while (!seen->end)
			seen->rounds++;
		_exit(0);
	}
	seen->child = child;
	say_inside(__func__);
	for (;;)
	{
		if (waitpid(child, &status, WUNTRACED | WCONTINUED) != child)
		{
			if (errno == EINTR)
				continue;
			break;
		}
		if (WIFSTOPPED(status))
			seen->told_stopped++;
		else if (WIFCONTINUED(status))
			seen->told_continued++;
		else
			break;
	}
	PG_RETURN_VOID();
}

/* What a backend becomes that a library has forked: no backend, with everything of one in its memory. */
static void
be_child(void)
{
	static const int signals[] = {SIGINT, SIGTERM, SIGUSR1, SIGHUP, SIGCONT};

	chained = false;
	for (int i = 0; i < (int) lengthof(signals); i++)
		count_signal(signals[i], 0);
	setsid();
	/* Nobody waits for it. */
	signal(SIGALRM, SIG_DFL);
	alarm(300);
	while (!seen->end)
		seen->rounds++;
	_exit(0);
}

/*
 * Loops, with a cancel pending, and forks when it gets the word, once.  The
 * child computes, and counts the signals that it gets.  By another word, the
 * statement is over then.
 */
PG_FUNCTION_INFO_V1(pgpoke_forks);
Datum
pgpoke_forks(PG_FUNCTION_ARGS)
{
	map_seen(PG_GETARG_TEXT_PP(0));
	say_inside(__func__);
	QueryCancelPending = true;
	InterruptPending = true;
	seen->inside++;
	while (!seen->end)
	{
		pid_t		child;

		if (seen->word == 0 || seen->child != 0)
			continue;
		child = fork();
		if (child == 0)
			be_child();
		seen->child = child;
		if (seen->word == 2)
		{
			QueryCancelPending = false;
			break;
		}
	}
	PG_RETURN_VOID();
}

/* A barrier, which every backend has to accept. */
PG_FUNCTION_INFO_V1(pgpoke_barrier);
Datum
pgpoke_barrier(PG_FUNCTION_ARGS)
{
#if PG_VERSION_NUM >= 150000
	WaitForProcSignalBarrier(EmitProcSignalBarrier(PROCSIGNAL_BARRIER_SMGRRELEASE));
#else
	elog(ERROR, "no barrier in this version");
#endif
	PG_RETURN_VOID();
}

/* ---- Calls that block ---- */

/* Notes that a call returned; errno as it left it. */
static void
returned(long result, int64 since, int64 left)
{
	int64		n = seen->returns;
	int			saved = errno;

	if (n < MOST_RETURNS)
	{
		seen->error[n] = result < 0 ? errno : 0;
		seen->result[n] = result;
		seen->left[n] = left;
		seen->elapsed[n] = now_ns() - since;
	}
	/* Last: who waits for it reads the others then. */
	seen->returns = n + 1;
	errno = saved;
}

static int
local_socket(const char *path)
{
	struct sockaddr_un peer;
	int			fd = socket(AF_UNIX, SOCK_STREAM, 0);

	memset(&peer, 0, sizeof(peer));
	peer.sun_family = AF_UNIX;
	snprintf(peer.sun_path, sizeof(peer.sun_path), "%s", path);
	while (connect(fd, (struct sockaddr *) &peer, sizeof(peer)) != 0)
		if (errno != EINTR)
			elog(ERROR, "connect: %m");
	return fd;
}

/*
 * One kind of blocking call, made again whenever it failed with EINTR, until
 * what it waits for is there.  Each return is noted.
 */
PG_FUNCTION_INFO_V1(pgpoke_blocks);
Datum
pgpoke_blocks(PG_FUNCTION_ARGS)
{
	char	   *kind = text_to_cstring(PG_GETARG_TEXT_PP(1));
	char	   *peer = text_to_cstring(PG_GETARG_TEXT_PP(2));
	int			fd = -1;
	int			epoll = -1;
	struct epoll_event event = {.events = EPOLLIN};
	struct timespec left = {.tv_sec = PG_GETARG_INT32(3) / 1000, .tv_nsec = PG_GETARG_INT32(3) % 1000 * 1000000L};
	int			timeout = PG_GETARG_INT32(3);
	int64		since;
	long		result;
	char		byte;

	map_seen(PG_GETARG_TEXT_PP(0));
	chain_usr1(0);
	/* Connected before it is said to be inside, as connect() blocks, too. */
	if (*peer)
		fd = local_socket(peer);
	if (strcmp(kind, "epoll_wait") == 0)
	{
		epoll = epoll_create1(0);
		epoll_ctl(epoll, EPOLL_CTL_ADD, fd, &event);
	}
	if (strcmp(kind, "sem_wait") == 0)
		sem_init(&seen->semaphore, 1, 0);
	no_alarm();
	say_inside(__func__);
	since = now_ns();
	do
	{
		int64		left_ns = -1;

		errno = 0;
		if (strcmp(kind, "read") == 0)
			result = read(fd, &byte, 1);
		else if (strcmp(kind, "recv") == 0)
			result = recv(fd, &byte, 1, 0);
		else if (strcmp(kind, "poll") == 0)
		{
			struct pollfd waits = {.fd = fd, .events = POLLIN};

			result = poll(&waits, 1, timeout);
		}
		else if (strcmp(kind, "epoll_wait") == 0)
			result = epoll_wait(epoll, &event, 1, timeout);
		else if (strcmp(kind, "nanosleep") == 0)
		{
			result = nanosleep(&left, &left);
			left_ns = result < 0 ? (int64) left.tv_sec * 1000000000 + left.tv_nsec : -1;
		}
		else if (strcmp(kind, "clock_nanosleep") == 0)
		{
			/* Its error is its result. */
			errno = clock_nanosleep(CLOCK_MONOTONIC, 0, &left, &left);
			result = errno == 0 ? 0 : -1;
			left_ns = result < 0 ? (int64) left.tv_sec * 1000000000 + left.tv_nsec : -1;
		}
		else if (strcmp(kind, "futex") == 0)
			result = seen->word != 0 ? 0 : syscall(SYS_futex, &seen->word, FUTEX_WAIT, 0, NULL, NULL, 0);
		else if (strcmp(kind, "futex_timed") == 0)
		{
			struct timespec limit = {.tv_sec = timeout / 1000, .tv_nsec = timeout % 1000 * 1000000L};

			result = seen->word != 0 ? 0 : syscall(SYS_futex, &seen->word, FUTEX_WAIT, 0, &limit, NULL, 0);
		}
		else if (strcmp(kind, "sem_wait") == 0)
			result = sem_wait(&seen->semaphore);
		else
			elog(ERROR, "unknown kind \"%s\"", kind);
		returned(result, since, left_ns);
	} while (result < 0 && errno == EINTR && !seen->end);
	if (fd >= 0)
		close(fd);
	if (epoll >= 0)
		close(epoll);
	PG_RETURN_VOID();
}

/* ---- Everything that a program has ---- */

#define ERRNO_CANARY 4242

#ifdef __x86_64__

#define GENERAL 15
#define RED_ZONE 16
#define HELD (GENERAL + RED_ZONE + 1)
#define FLAGS (HELD - 1)

static const char *const general[GENERAL] = {
	"rax", "rbx", "rcx", "rdx", "rsi", "rbp", "r8", "r9", "r10", "r11", "r12", "r13", "r14", "r15", "rdi",
};

/* Carry, parity, adjust, zero, sign, trap, direction, overflow, identification. */
#define HELD_FLAGS UINT64CONST(0x200DD5)
/* Carry, direction, identification by hand; zero and parity by the last decrement. */
#define EXPECTED_FLAGS UINT64CONST(0x200445)

typedef struct Kept
{
	uint64		held[HELD];
	/* In: how many turns. */
	uint64		turns;
	/* Which of the xsave components are loaded, kept and stored. */
	uint64		components;
	/* Areas of XSAVE. */
	void	   *load;
	void	   *store;
} Kept;

/*
 * Loads every general register but the stack pointer, the flags, the red
 * zone, and all of the x87's and vector registers; turns in a loop that
 * touches none of them; stores them all.  Naked, since no compiler lends out
 * all of that.
 *
 * Offsets into Kept: held 0, turns 256, components 264, load 272, store 280.
 */
static pg_noinline void __attribute__((naked))
keep(Kept *kept)
{
	__asm__(
			"	pushq	%rbp\n"
			"	pushq	%rbx\n"
			"	pushq	%r12\n"
			"	pushq	%r13\n"
			"	pushq	%r14\n"
			"	pushq	%r15\n"
			"	pushq	%rdi\n"				/* 8(%rsp): kept */
			"	pushq	256(%rdi)\n"		/* (%rsp): turns */
			"	movl	264(%rdi), %eax\n"
			"	movl	268(%rdi), %edx\n"
			"	movq	272(%rdi), %rcx\n"
			"	xrstor64 (%rcx)\n"
			"	pushfq\n"
			"	orq		$0x200000, (%rsp)\n"
			"	popfq\n"
			/* From here on nothing is pushed until the red zone has been read. */
			LOAD_REGISTERS

			/* DEC leaves the carry alone; XCHG, MOV and LEA leave all flags alone. */
			"1:	decq	(%rsp)\n"
			"	jnz		1b\n"

			STORE_REGISTERS
			"	leaq	8(%rsp), %rsp\n"
			"	pushfq\n"
			"	cld\n"						/* which the ABI wants on return */
			"	popq	%rcx\n"
			"	movq	%rcx, 248(%rax)\n"
			"	popq	%rcx\n"
			"	movq	%rcx, 0(%rax)\n"
			"	movq	%rax, %rdi\n"
			"	movl	264(%rdi), %eax\n"
			"	movl	268(%rdi), %edx\n"
			"	movq	280(%rdi), %rcx\n"
			"	xsave64	(%rcx)\n"
			/* And an empty x87, and everything at its default. */
			"	fninit\n"
			"	pushq	$0x1f80\n"
			"	ldmxcsr	(%rsp)\n"
			"	leaq	8(%rsp), %rsp\n"
			"	btl		$2, %eax\n"
			"	jnc		2f\n"
			"	vzeroupper\n"
			"2:	popq	%r15\n"
			"	popq	%r14\n"
			"	popq	%r13\n"
			"	popq	%r12\n"
			"	popq	%rbx\n"
			"	popq	%rbp\n"
			"	ret\n");
}

/* x87, SSE, AVX, and AVX-512 in its three parts. */
#define COMPONENTS UINT64CONST(0xE7)

/* Where the legacy part ends and the header of 64 bytes lies; the rest follows. */
#define XSAVE_HEADER 512

static uint64
xcr0(void)
{
	uint32		low,
				high;

	__asm__ volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
	return (uint64) high << 32 | low;
}

/*
 * An area for XRSTOR with another pattern in every register of each of the
 * components; in the standard form, as CPUID lays it out.
 */
static size_t
patterned(uint64 components, char **area)
{
	uint32		a,
				b,
				c,
				d;
	size_t		size;
	uint64		next = UINT64CONST(0x9E3779B97F4A7C15);

	__cpuid_count(0xD, 0, a, b, c, d);
	size = b;
	if (posix_memalign((void **) area, 64, size) != 0)
		elog(ERROR, "out of memory");
	memset(*area, 0, size);
	/* Rounding towards zero in both; all eight x87 registers in use. */
	*(uint16 *) *area = 0x0F7F;
	(*area)[4] = (char) 0xFF;
	*(uint32 *) (*area + 24) = 0x7F80;
	for (int i = 0; i < 8; i++)
	{
		/* Ten bytes; a normal number, with the highest bit of its fraction set. */
		next = next * UINT64CONST(6364136223846793005) + 1;
		*(uint64 *) (*area + 32 + 16 * i) = next | UINT64CONST(1) << 63;
		*(uint16 *) (*area + 40 + 16 * i) = (uint16) (0x3F00 + (next >> 33) % 0x100);
	}
	for (int i = 0; i < 16 * 16; i++)
	{
		next = next * UINT64CONST(6364136223846793005) + 1;
		(*area)[160 + i] = (char) (next >> 56);
	}
	for (int component = 2; component < 8; component++)
	{
		if (!(components >> component & 1))
			continue;
		__cpuid_count(0xD, component, a, b, c, d);
		for (uint32 i = 0; i < a; i++)
		{
			next = next * UINT64CONST(6364136223846793005) + 1;
			(*area)[b + i] = (char) (next >> 56);
		}
	}
	*(uint64 *) (*area + XSAVE_HEADER) = components;
	return size;
}

/* Where the last instruction and operand of the x87 were, which some processors do not keep. */
static bool
is_kept(size_t at)
{
	return !(at >= 6 && at < 24) && !(at >= 28 && at < 32) && !(at >= 416 && at < XSAVE_HEADER);
}

static const char *
component_at(size_t at)
{
	return at < 24 ? "the x87's control and status" : at < 32 ? "mxcsr" : at < 160 ? "an x87 register"
		: at < XSAVE_HEADER ? "an xmm register" : at < XSAVE_HEADER + 64 ? "the xsave header" : "a vector register";
}

/* The first thing that was not kept, described; or NULL. */
static char *
keep_registers(Kept *kept, size_t size, uint64 seed)
{
	uint64		expected[HELD];
	const char *load = kept->load;
	const char *store = kept->store;

	for (int i = 0; i < HELD; i++)
		kept->held[i] = expected[i] = (seed + i + 1) * UINT64CONST(0x9E3779B97F4A7C15);
	expected[FLAGS] = EXPECTED_FLAGS;
	kept->turns = 20000;
	memset(kept->store, 0, size);
	keep(kept);
	kept->held[FLAGS] &= HELD_FLAGS;
	for (int i = 0; i < HELD; i++)
		if (kept->held[i] != expected[i])
			return psprintf("%s %d is 0x%llx, was 0x%llx",
							i < GENERAL ? general[i] : i < FLAGS ? "a red zone's word" : "flags", i,
							(unsigned long long) kept->held[i], (unsigned long long) expected[i]);
	for (size_t at = 0; at < size; at++)
		if (is_kept(at) && load[at] != store[at])
			return psprintf("byte %zu of the xsave area, in %s, is 0x%x, was 0x%x", at, component_at(at),
							(unsigned char) store[at], (unsigned char) load[at]);
	return NULL;
}

#endif							/* __x86_64__ */

/* The bytes of a signal set that the kernel fills; a C library's is larger. */
#define KERNEL_SET 8

#ifndef SS_AUTODISARM
#define SS_AUTODISARM (1U << 31)
#endif

/*
 * Checks, round after round, everything that a program has: registers, flags,
 * red zone, the whole xsave area, errno, signal mask, pending signals, and
 * alternate signal stack.  SIGUSR1 is taken on the normal stack ('plain'), or
 * on that one ('altstack'), or on one that is disarmed meanwhile
 * ('autodisarm').
 */
PG_FUNCTION_INFO_V1(pgpoke_keeps);
Datum
pgpoke_keeps(PG_FUNCTION_ARGS)
{
	char	   *kind = text_to_cstring(PG_GETARG_TEXT_PP(1));
	int			pended = SIGRTMIN + 4;
	char	   *damage = NULL;
	stack_t		alternate;
	sigset_t	mask,
				pending,
				waits;
	union sigval value;
	siginfo_t	info;
	struct timespec no_time = {0, 0};
	int			still = 0;
#ifdef __x86_64__
	Kept		kept;
	size_t		size;
#endif

	map_seen(PG_GETARG_TEXT_PP(0));
	memset(&alternate, 0, sizeof(alternate));
	alternate.ss_size = 256 * 1024;
	alternate.ss_sp = mmap(NULL, alternate.ss_size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	alternate.ss_flags = strcmp(kind, "autodisarm") == 0 ? (int) SS_AUTODISARM : 0;
	if (alternate.ss_sp == MAP_FAILED || sigaltstack(&alternate, NULL) != 0)
		elog(ERROR, "sigaltstack: %m");
	chain_usr1(strcmp(kind, "plain") == 0 ? 0 : SA_ONSTACK);

	/* One signal that is blocked, and three of it that wait. */
	sigemptyset(&waits);
	sigaddset(&waits, pended);
	sigprocmask(SIG_BLOCK, &waits, NULL);
	for (int i = 1; i <= 3; i++)
	{
		value.sival_int = i;
		sigqueue(getpid(), pended, value);
	}
	sigprocmask(SIG_SETMASK, NULL, &mask);
	sigpending(&pending);
#ifdef __x86_64__
	if (!__builtin_cpu_supports("avx"))
		elog(ERROR, "a processor without XSAVE");
	kept.components = xcr0() & COMPONENTS;
	size = patterned(kept.components, (char **) &kept.load);
	patterned(kept.components, (char **) &kept.store);
	ereport(NOTICE, (errmsg("xsave components 0x%llx", (unsigned long long) kept.components)));
#endif
	say_inside(__func__);
	while (!seen->end && damage == NULL)
	{
		stack_t		alternate_now;
		sigset_t	mask_now,
					pending_now;

		memset(&alternate_now, 0, sizeof(alternate_now));
		errno = ERRNO_CANARY;
#ifdef __x86_64__
		damage = keep_registers(&kept, size, seen->rounds);
#endif
		if (damage == NULL && errno != ERRNO_CANARY)
			damage = psprintf("errno is %d", errno);
		sigprocmask(SIG_SETMASK, NULL, &mask_now);
		if (damage == NULL && memcmp(&mask, &mask_now, KERNEL_SET) != 0)
			damage = "the signal mask differs";
		sigpending(&pending_now);
		if (damage == NULL && memcmp(&pending, &pending_now, KERNEL_SET) != 0)
			damage = "the pending signals differ";
		sigaltstack(NULL, &alternate_now);
		if (damage == NULL && (alternate_now.ss_sp != alternate.ss_sp
							   || alternate_now.ss_size != alternate.ss_size
							   || alternate_now.ss_flags != alternate.ss_flags))
			damage = "the alternate signal stack differs";
		seen->rounds++;
	}
	while (sigtimedwait(&waits, &info, &no_time) == pended)
		if (++still != info.si_value.sival_int && damage == NULL)
			damage = "the pending signals are in another order";
	if (still != 3 && damage == NULL)
		damage = psprintf("of three pending signals, %d are left", still);
	PG_RETURN_TEXT_P(cstring_to_text(damage ? damage : psprintf("ok, %lld rounds", (long long) seen->rounds)));
}

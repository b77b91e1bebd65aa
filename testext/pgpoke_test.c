/*
 * pgpoke_test: every way for a backend to get stuck.
 *
 * Code that PostgreSQL calls but did not write (an extension, a library, an
 * interpreter) may never come back to CHECK_FOR_INTERRUPTS(), and then
 * pg_cancel_backend() and pg_terminate_backend() return true and nothing
 * happens.  Each function here is one such accident, on purpose.  They are
 * for throwaway servers only: some of them can end in a crash recovery.
 *
 * Every function that gets stuck says so with a NOTICE right before.  A
 * notice is flushed to the client at once, so whoever waits for it knows that
 * the backend is inside, without having to look at the process.
 */
#include "postgres.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/futex.h>
#include <netinet/in.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <sys/auxv.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/select.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "access/relation.h"
#include "access/xact.h"
#include "catalog/pg_class.h"
#include "fmgr.h"
#include "libpq/pqsignal.h"
#include "miscadmin.h"
#include "storage/bufmgr.h"
#include "storage/ipc.h"
#include "storage/latch.h"
#include "storage/lwlock.h"
#include "storage/proc.h"
#include "storage/shm_mq.h"
#include "storage/shmem.h"
#include "storage/spin.h"
#include "utils/builtins.h"
#include "utils/memutils.h"
#include "utils/rel.h"
#if PG_VERSION_NUM >= 140000
#include "utils/wait_event.h"
#else
#include "pgstat.h"
#endif

#include "pgpoke_registers.h"

/* Glibc's headers know it from 2.34 on; kernels, longer. */
#ifndef AT_MINSIGSTKSZ
#define AT_MINSIGSTKSZ 51
#endif

PG_MODULE_MAGIC;

/*
 * Every endless loop looks at this.  It is volatile, so that the compiler
 * cannot conclude that these functions never return, and leave out what
 * follows the calls to them: then return addresses would point past the end
 * of their functions.
 */
static volatile bool stuck = true;

/* Something to do that is neither optimised away nor a system call. */
static volatile uint64 turns;

/* What foreign signal handlers do here: count. */
static volatile sig_atomic_t signals_seen;

static pg_noinline void
say_stuck(const char *function)
{
	ereport(NOTICE, (errmsg("%s() is stuck from here on", function)));
}

static pg_noinline void
spin(void)
{
	while (stuck)
		turns++;
}

static void
bad_kind(const char *kind)
{
	ereport(ERROR,
			(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
			 errmsg("unknown kind \"%s\"", kind)));
}

static struct timespec
to_timespec(double seconds)
{
	struct timespec result;

	result.tv_sec = (time_t) seconds;
	result.tv_nsec = (long) ((seconds - (double) result.tv_sec) * 1e9);
	return result;
}

static double
seconds_now(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (double) ts.tv_sec + (double) ts.tv_nsec / 1e9;
}

/*
 * A pipe that nobody writes to.  Its two descriptors leak when the statement
 * is cancelled, as those of a library do that is jumped out of.
 */
static int
silent_pipe(void)
{
	int			fds[2];

	if (pipe(fds) != 0)
		elog(ERROR, "pipe: %m");
	return fds[0];
}

/* ---- Running, or waiting, without ever asking whether to stop ---- */

/*
 * A computation that takes for ever: a bad regular expression, a geometry
 * library, a hash that cycles.
 */
PG_FUNCTION_INFO_V1(pgpoke_spin);
Datum
pgpoke_spin(PG_FUNCTION_ARGS)
{
	say_stuck(__func__);
	spin();
	PG_RETURN_VOID();
}

/*
 * A library that sleeps between its retries, and takes EINTR for a reason to
 * sleep on.
 */
PG_FUNCTION_INFO_V1(pgpoke_sleep);
Datum
pgpoke_sleep(PG_FUNCTION_ARGS)
{
	struct timespec left;

	say_stuck(__func__);
	while (stuck)
	{
		left.tv_sec = 3600;
		left.tv_nsec = 0;
		while (nanosleep(&left, &left) != 0 && errno == EINTR)
			;
	}
	PG_RETURN_VOID();
}

/*
 * A foreign data wrapper, or an HTTP client, whose other side never answers.
 */
PG_FUNCTION_INFO_V1(pgpoke_read);
Datum
pgpoke_read(PG_FUNCTION_ARGS)
{
	int			fd = silent_pipe();
	char		byte;

	say_stuck(__func__);
	while (read(fd, &byte, 1) != 1 && errno == EINTR)
		;
	PG_RETURN_VOID();
}

/*
 * An extension that waits in PostgreSQL's own way, but forgot
 * CHECK_FOR_INTERRUPTS() in the loop.
 */
PG_FUNCTION_INFO_V1(pgpoke_latch);
Datum
pgpoke_latch(PG_FUNCTION_ARGS)
{
	say_stuck(__func__);
	while (stuck)
	{
		WaitLatch(MyLatch, WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH, 1000L, PG_WAIT_EXTENSION);
		ResetLatch(MyLatch);
	}
	PG_RETURN_VOID();
}

/*
 * The same silent peer behind stdio: the lock of the FILE is held all the
 * while.
 */
PG_FUNCTION_INFO_V1(pgpoke_stdio);
Datum
pgpoke_stdio(PG_FUNCTION_ARGS)
{
	FILE	   *file = fdopen(silent_pipe(), "r");
	char		line[80];

	if (file == NULL)
		elog(ERROR, "fdopen: %m");
	say_stuck(__func__);
	while (fgets(line, sizeof(line), file) == NULL)
		clearerr(file);
	PG_RETURN_VOID();
}

/* A connection to a port of this machine. */
static int
connected_socket(int port)
{
	struct sockaddr_in peer = {0};
	int			fd = socket(AF_INET, SOCK_STREAM, 0);

	peer.sin_family = AF_INET;
	peer.sin_port = htons(port);
	peer.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
	while (connect(fd, (struct sockaddr *) &peer, sizeof(peer)) != 0)
		if (errno != EINTR && errno != EALREADY)
			elog(ERROR, "connect: %m");
	return fd;
}

/* A child that does nothing, and that no signal to the backend's group ends. */
static pid_t
silent_child(void)
{
	pid_t		child = fork();

	if (child == 0)
	{
		setsid();
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		execlp("sleep", "sleep", "3600", (char *) NULL);
		_exit(1);
	}
	return child;
}

/*
 * Other system calls that libraries wait in, each gone back to after every
 * signal.  The argument is a port of this machine, or the path of a FIFO.
 */
PG_FUNCTION_INFO_V1(pgpoke_wait);
Datum
pgpoke_wait(PG_FUNCTION_ARGS)
{
	char	   *kind = text_to_cstring(PG_GETARG_TEXT_PP(0));
	char	   *argument = text_to_cstring(PG_GETARG_TEXT_PP(1));

	if (strcmp(kind, "poll") == 0)
	{
		struct pollfd waits = {.fd = silent_pipe(), .events = POLLIN};

		say_stuck(__func__);
		while (poll(&waits, 1, 3600 * 1000) < 1)
			;
	}
	else if (strcmp(kind, "select") == 0)
	{
		int			fd = silent_pipe();
		fd_set		set;

		say_stuck(__func__);
		do
		{
			FD_ZERO(&set);
			FD_SET(fd, &set);
		} while (select(fd + 1, &set, NULL, NULL, NULL) < 1);
	}
	else if (strcmp(kind, "epoll") == 0)
	{
		struct epoll_event event = {.events = EPOLLIN};
		int			fd = epoll_create1(0);

		epoll_ctl(fd, EPOLL_CTL_ADD, silent_pipe(), &event);
		say_stuck(__func__);
		while (epoll_wait(fd, &event, 1, -1) < 1)
			;
	}
	else if (strcmp(kind, "child") == 0)
	{
		pid_t		child = silent_child();

		say_stuck(__func__);
		while (waitpid(child, NULL, 0) < 0 && errno == EINTR)
			;
	}
	else if (strcmp(kind, "futex") == 0)
	{
		static uint32 word = 0;

		say_stuck(__func__);
		while (stuck)
			syscall(SYS_futex, &word, FUTEX_WAIT_PRIVATE, 0, NULL, NULL, 0);
	}
	else if (strcmp(kind, "socket") == 0)
	{
		int			fd = connected_socket(atoi(argument));
		char		byte;

		say_stuck(__func__);
		while (recv(fd, &byte, 1, 0) < 0 && errno == EINTR)
			;
	}
	else if (strcmp(kind, "connect") == 0)
	{
		say_stuck(__func__);
		close(connected_socket(atoi(argument)));
	}
	else if (strcmp(kind, "fifo") == 0)
	{
		int			fd;

		say_stuck(__func__);
		while ((fd = open(argument, O_RDONLY)) < 0 && errno == EINTR)
			;
	}
	else
		bad_kind(kind);
	PG_RETURN_VOID();
}

/*
 * A new thread inherits the mask.  PostgreSQL's handlers must never run on any
 * other thread than its own.
 */
static void
start_thread(void *(*work) (void *), void *argument)
{
	pthread_t	thread;
	sigset_t	all,
				before;
	int			failed;

	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &before);
	failed = pthread_create(&thread, NULL, work, argument);
	pthread_sigmask(SIG_SETMASK, &before, NULL);
	if (failed)
		elog(ERROR, "pthread_create: error %d", failed);
	pthread_detach(thread);
}

/*
 * Kept apart from its caller, since a vfork child may scribble on the locals
 * of this very frame.
 */
static pg_noinline void
vfork_and_wait(double seconds)
{
	struct timespec pause = to_timespec(seconds);
	sigset_t	all;
	pid_t		child;

	sigfillset(&all);
	child = vfork();
	if (child == 0)
	{
		/*
		 * The child runs in the backend's memory, so nothing may ever reach
		 * its copy of the backend's signal handlers, neither a cancel (which
		 * goes to the whole process group) nor a shutdown.
		 */
		sigprocmask(SIG_SETMASK, &all, NULL);
		setsid();
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		nanosleep(&pause, NULL);
		_exit(0);
	}
	while (child > 0 && waitpid(child, NULL, 0) < 0 && errno == EINTR)
		;
}

/*
 * State D, as on a dead NFS server, without needing one: the parent of a
 * vfork child waits uninterruptibly (but for SIGKILL) until the child exits.
 */
PG_FUNCTION_INFO_V1(pgpoke_vfork);
Datum
pgpoke_vfork(PG_FUNCTION_ARGS)
{
	double		seconds = PG_GETARG_FLOAT8(0);

	say_stuck(__func__);
	vfork_and_wait(seconds);
	PG_RETURN_VOID();
}

static void *
vforking_thread(void *seconds)
{
	vfork_and_wait(*(double *) seconds);
	return NULL;
}

/* A loop beside a thread in state D. */
PG_FUNCTION_INFO_V1(pgpoke_thread_in_vfork);
Datum
pgpoke_thread_in_vfork(PG_FUNCTION_ARGS)
{
	static double seconds;

	seconds = PG_GETARG_FLOAT8(0);
	start_thread(vforking_thread, &seconds);
	say_stuck(__func__);
	spin();
	PG_RETURN_VOID();
}

/* ---- Signals that do not arrive where PostgreSQL expects them ---- */

static void
count_signal(int signo)
{
	signals_seen++;
}

/*
 * A language runtime that installs handlers of its own for SIGINT and SIGTERM,
 * or ignores both.
 */
PG_FUNCTION_INFO_V1(pgpoke_handlers);
Datum
pgpoke_handlers(PG_FUNCTION_ARGS)
{
	char	   *kind = text_to_cstring(PG_GETARG_TEXT_PP(0));
	struct sigaction action = {0};

	if (strcmp(kind, "pqsignal") == 0)
	{
		/* From 17 on, the kernel does not see the difference. */
		pqsignal(SIGINT, count_signal);
		pqsignal(SIGTERM, count_signal);
		say_stuck(__func__);
		spin();
		PG_RETURN_VOID();
	}
	if (strcmp(kind, "ignore") == 0)
		action.sa_handler = SIG_IGN;
	else if (strcmp(kind, "own") == 0)
		action.sa_handler = count_signal;
	else
		bad_kind(kind);
	action.sa_flags = SA_RESTART;
	sigaction(SIGINT, &action, NULL);
	sigaction(SIGTERM, &action, NULL);
	say_stuck(__func__);
	spin();
	PG_RETURN_VOID();
}

static char at_exit_argument[MAXPGPATH];

static void
open_at_exit(int code, Datum argument)
{
	int			fd;

	while ((fd = open(at_exit_argument, O_RDONLY)) < 0 && errno == EINTR)
		;
}

static void
run_at_exit(int code, Datum argument)
{
	if (system(at_exit_argument) < 0)
		elog(LOG, "could not run \"%s\": %m", at_exit_argument);
}

/*
 * A library that waits for somebody when the session ends: for the other end of
 * a FIFO, or for a command.
 */
PG_FUNCTION_INFO_V1(pgpoke_at_exit);
Datum
pgpoke_at_exit(PG_FUNCTION_ARGS)
{
	char	   *kind = text_to_cstring(PG_GETARG_TEXT_PP(0));

	text_to_cstring_buffer(PG_GETARG_TEXT_PP(1), at_exit_argument, sizeof(at_exit_argument));
	if (strcmp(kind, "open") == 0)
		on_proc_exit(open_at_exit, 0);
	else if (strcmp(kind, "run") == 0)
		on_proc_exit(run_at_exit, 0);
	else
		bad_kind(kind);
	PG_RETURN_VOID();
}

/*
 * A library that blocks signals around something that should have been short.
 */
PG_FUNCTION_INFO_V1(pgpoke_blocked);
Datum
pgpoke_blocked(PG_FUNCTION_ARGS)
{
	sigset_t	set;

	sigemptyset(&set);
	sigaddset(&set, SIGINT);
	sigaddset(&set, SIGTERM);
	sigprocmask(SIG_BLOCK, &set, NULL);
	say_stuck(__func__);
	spin();
	PG_RETURN_VOID();
}

static struct sigaction chained_usr1;

static void
chain_usr1(int signo, siginfo_t *info, void *context)
{
	signals_seen++;
	if (chained_usr1.sa_flags & SA_SIGINFO)
		chained_usr1.sa_sigaction(signo, info, context);
	else
		chained_usr1.sa_handler(signo);
}

/*
 * Signals shall run on a stack of that size, with a guard page below: an
 * overflow faults instead of damaging something.
 */
static void
use_alternate_stack(size_t size)
{
	size_t		page = sysconf(_SC_PAGESIZE);
	size_t		whole = TYPEALIGN(page, size);
	char	   *guard;
	stack_t		alternate = {0};

	guard = mmap(NULL, page + whole, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (guard == MAP_FAILED || mprotect(guard, page, PROT_NONE) != 0)
		elog(ERROR, "could not make an alternate stack: %m");
	alternate.ss_sp = guard + page;
	alternate.ss_size = size;
	if (sigaltstack(&alternate, NULL) != 0)
		elog(ERROR, "sigaltstack: %m");
}

/*
 * What runtimes (Go, Java, .NET, crash reporters) do to the other signals:
 * ignore SIGUSR1, leave it to its default (when any SIGUSR1 kills the
 * backend), block it, or take it on an alternate stack before PostgreSQL
 * does; that stack is ample ('altstack'), or little more than what the kernel
 * itself needs for the signal's frame ('smallstack', 'tightstack': of that
 * not enough for any call), or enough for a handler and not for an error
 * report ('16kstack').
 */
/* Looks again and again, with a short sleep in between, as old code does. */
PG_FUNCTION_INFO_V1(pgpoke_usleep);
Datum
pgpoke_usleep(PG_FUNCTION_ARGS)
{
	say_stuck(__func__);
	for (;;)
		pg_usleep(10000L);
	PG_RETURN_VOID();
}

PG_FUNCTION_INFO_V1(pgpoke_usr1);
Datum
pgpoke_usr1(PG_FUNCTION_ARGS)
{
	char	   *kind = text_to_cstring(PG_GETARG_TEXT_PP(0));

	if (strcmp(kind, "ignore") == 0)
		signal(SIGUSR1, SIG_IGN);
	else if (strcmp(kind, "default") == 0)
		signal(SIGUSR1, SIG_DFL);
	else if (strcmp(kind, "block") == 0)
	{
		sigset_t	set;

		sigemptyset(&set);
		sigaddset(&set, SIGUSR1);
		sigprocmask(SIG_BLOCK, &set, NULL);
	}
	else if (strcmp(kind, "altstack") == 0 || strcmp(kind, "smallstack") == 0 ||
			 strcmp(kind, "16kstack") == 0 || strcmp(kind, "tightstack") == 0)
	{
		struct sigaction action;

		if (strcmp(kind, "altstack") == 0)
			use_alternate_stack(64 * 1024);
		else if (strcmp(kind, "16kstack") == 0)
			use_alternate_stack(16 * 1024 + getauxval(AT_MINSIGSTKSZ));
		else if (strcmp(kind, "tightstack") == 0)
			use_alternate_stack(Max(getauxval(AT_MINSIGSTKSZ), MINSIGSTKSZ) + 256);
		else
			use_alternate_stack(TYPEALIGN(1024, Max(getauxval(AT_MINSIGSTKSZ), MINSIGSTKSZ) + 1024));
		sigaction(SIGUSR1, NULL, &action);
		if (!(action.sa_flags & SA_SIGINFO) || action.sa_sigaction != chain_usr1)
			chained_usr1 = action;
		action.sa_sigaction = chain_usr1;
		action.sa_flags |= SA_SIGINFO | SA_ONSTACK;
		sigaction(SIGUSR1, &action, NULL);
	}
	else
		bad_kind(kind);
	say_stuck(__func__);
	spin();
	PG_RETURN_VOID();
}

static void
spin_in_handler(int signo)
{
	spin();
}

/*
 * A signal handler that never comes back: a crash reporter that deadlocked, a
 * profiler gone wild.
 */
PG_FUNCTION_INFO_V1(pgpoke_handler_loop);
Datum
pgpoke_handler_loop(PG_FUNCTION_ARGS)
{
	signal(SIGUSR2, spin_in_handler);
	say_stuck(__func__);
	raise(SIGUSR2);
	PG_RETURN_VOID();
}

/* ---- PostgreSQL's own reasons not to be interrupted ---- */

/* Inside HOLD_INTERRUPTS(): ProcessInterrupts() would return at once. */
PG_FUNCTION_INFO_V1(pgpoke_hold);
Datum
pgpoke_hold(PG_FUNCTION_ARGS)
{
	say_stuck(__func__);
	HOLD_INTERRUPTS();
	spin();
	RESUME_INTERRUPTS();
	PG_RETURN_VOID();
}

/* Inside a critical section: an ERROR raised here would be a PANIC. */
PG_FUNCTION_INFO_V1(pgpoke_crit);
Datum
pgpoke_crit(PG_FUNCTION_ARGS)
{
	say_stuck(__func__);
	START_CRIT_SECTION();
	spin();
	END_CRIT_SECTION();
	PG_RETURN_VOID();
}

/*
 * Waiting for an LWLock that the backend itself holds.  There is no deadlock
 * detector for these.  The lock guards the start-up of extensions in shared
 * memory; nothing else on a throwaway server is likely to want it.
 */
PG_FUNCTION_INFO_V1(pgpoke_lwlock);
Datum
pgpoke_lwlock(PG_FUNCTION_ARGS)
{
	say_stuck(__func__);
	LWLockAcquire(AddinShmemInitLock, LW_EXCLUSIVE);
	LWLockAcquire(AddinShmemInitLock, LW_EXCLUSIVE);
	LWLockRelease(AddinShmemInitLock);
	LWLockRelease(AddinShmemInitLock);
	PG_RETURN_VOID();
}

/* A lock of a tranche of this extension's own, and a word to those that hold it. */
typedef struct SharedLock
{
	LWLock		lock;
	int			tranche;
	volatile bool let_go;
} SharedLock;

/*
 * It lives in what the server has left of its shared memory, as the library
 * is not preloaded.
 */
static SharedLock *
shared_lock(void)
{
	static SharedLock *shared = NULL;
	bool		found;

	if (shared != NULL)
		return shared;
	LWLockAcquire(AddinShmemInitLock, LW_EXCLUSIVE);
	shared = ShmemInitStruct("pgpoke_test", sizeof(SharedLock), &found);
	if (!found)
	{
		shared->tranche = LWLockNewTrancheId();
		shared->let_go = false;
		LWLockInitialize(&shared->lock, shared->tranche);
	}
	LWLockRelease(AddinShmemInitLock);
	LWLockRegisterTranche(shared->tranche, "pgpoke_test");
	return shared;
}

static LWLock *
lock_called(const char *name)
{
	if (strcmp(name, "own") == 0)
		return &shared_lock()->lock;
	if (strcmp(name, "builtin") == 0)
		return TablespaceCreateLock;	/* nobody else makes one here */
	bad_kind(name);
	return NULL;
}

/* Holding an LWLock, until pgpoke_let_go(). */
PG_FUNCTION_INFO_V1(pgpoke_lwlock_hold);
Datum
pgpoke_lwlock_hold(PG_FUNCTION_ARGS)
{
	LWLock	   *lock = lock_called(text_to_cstring(PG_GETARG_TEXT_PP(0)));
	bool		shared = PG_GETARG_BOOL(1);
	SharedLock *word = shared_lock();

	LWLockAcquire(lock, shared ? LW_SHARED : LW_EXCLUSIVE);
	say_stuck(__func__);
	while (!word->let_go)
		turns++;
	LWLockRelease(lock);
	PG_RETURN_VOID();
}

/*
 * Holding a lock of its own while the server computes something long for it,
 * until pgpoke_let_go().
 */
PG_FUNCTION_INFO_V1(pgpoke_lwlock_divide);
Datum
pgpoke_lwlock_divide(PG_FUNCTION_ARGS)
{
	SharedLock *word = shared_lock();

	LWLockAcquire(&word->lock, LW_EXCLUSIVE);
	say_stuck(__func__);
	while (!word->let_go)
	{
		Datum		quotient = DirectFunctionCall2(numeric_div,
												   PG_GETARG_DATUM(0),
												   PG_GETARG_DATUM(1));

		pfree(DatumGetPointer(quotient));
		turns++;
	}
	LWLockRelease(&word->lock);
	PG_RETURN_VOID();
}

/* Waiting for an LWLock that another backend holds. */
PG_FUNCTION_INFO_V1(pgpoke_lwlock_wait);
Datum
pgpoke_lwlock_wait(PG_FUNCTION_ARGS)
{
	LWLock	   *lock = lock_called(text_to_cstring(PG_GETARG_TEXT_PP(0)));
	bool		shared = PG_GETARG_BOOL(1);

	say_stuck(__func__);
	LWLockAcquire(lock, shared ? LW_SHARED : LW_EXCLUSIVE);
	LWLockRelease(lock);
	PG_RETURN_VOID();
}

/*
 * Taking and releasing something on each turn, and never asking whether to
 * stop: interrupts are held off most of the time, but not all of it.
 */
PG_FUNCTION_INFO_V1(pgpoke_lwlock_turns);
Datum
pgpoke_lwlock_turns(PG_FUNCTION_ARGS)
{
	LWLock	   *lock = &shared_lock()->lock;
	int			n;

	say_stuck(__func__);
	while (stuck)
	{
		LWLockAcquire(lock, LW_SHARED);
		for (n = 0; n < 30000; n++)
			turns++;
		LWLockRelease(lock);
		for (n = 0; n < 10000; n++)
			turns++;
	}
	PG_RETURN_VOID();
}

/* The same with a buffer's lock: the first page of pg_class. */
PG_FUNCTION_INFO_V1(pgpoke_buffer_turns);
Datum
pgpoke_buffer_turns(PG_FUNCTION_ARGS)
{
	Relation	rel = relation_open(RelationRelationId, AccessShareLock);

	say_stuck(__func__);
	while (stuck)
	{
		Buffer		buffer = ReadBuffer(rel, 0);
		int			n;

		LockBuffer(buffer, BUFFER_LOCK_SHARE);
		for (n = 0; n < 300; n++)
			turns++;
		UnlockReleaseBuffer(buffer);
	}
	relation_close(rel, AccessShareLock);
	PG_RETURN_VOID();
}

/* Polling a queue: it is the caller of shm_mq_receive() that loops. */
PG_FUNCTION_INFO_V1(pgpoke_queue);
Datum
pgpoke_queue(PG_FUNCTION_ARGS)
{
	Size		size = 8192;
	shm_mq	   *queue = shm_mq_create(palloc0(size), size);
	shm_mq_handle *handle;
	Size		got;
	void	   *data;

	shm_mq_set_receiver(queue, MyProc);
	handle = shm_mq_attach(queue, NULL, NULL);
	say_stuck(__func__);
	while (stuck && shm_mq_receive(handle, &got, &data, true) != SHM_MQ_SUCCESS)
		;
	PG_RETURN_VOID();
}

/* Ends every pgpoke_lwlock_hold(), now and later. */
PG_FUNCTION_INFO_V1(pgpoke_let_go);
Datum
pgpoke_let_go(PG_FUNCTION_ARGS)
{
	shared_lock()->let_go = true;
	PG_RETURN_VOID();
}

/*
 * Clean-up after an error that takes for ever: the error is still kept, to be
 * thrown on.
 */
PG_FUNCTION_INFO_V1(pgpoke_catch);
Datum
pgpoke_catch(PG_FUNCTION_ARGS)
{
	MemoryContext context = CurrentMemoryContext;

	PG_TRY();
	{
		elog(ERROR, "an error to be cleaned up after");
	}
	PG_CATCH();
	{
		MemoryContextSwitchTo(context);
		say_stuck(__func__);
		spin();
		PG_RE_THROW();
	}
	PG_END_TRY();
	PG_RETURN_VOID();
}

/*
 * Waiting for a spinlock that nobody will release.  No counter tells; only
 * the stack does.  After a minute or two PostgreSQL gives up with a PANIC, so
 * be done with this one before.
 */
PG_FUNCTION_INFO_V1(pgpoke_spinlock);
Datum
pgpoke_spinlock(PG_FUNCTION_ARGS)
{
	static slock_t lock;

	SpinLockInit(&lock);
	say_stuck(__func__);
	SpinLockAcquire(&lock);
	SpinLockAcquire(&lock);
	SpinLockRelease(&lock);
	PG_RETURN_VOID();
}

/*
 * Holding a spinlock for ever, or no longer: only the code tells.
 */
PG_FUNCTION_INFO_V1(pgpoke_spinlock_held);
Datum
pgpoke_spinlock_held(PG_FUNCTION_ARGS)
{
	static slock_t lock;

	SpinLockInit(&lock);
	say_stuck(__func__);
	SpinLockAcquire(&lock);
	spin();
	SpinLockRelease(&lock);
	PG_RETURN_VOID();
}

PG_FUNCTION_INFO_V1(pgpoke_spinlock_released);
Datum
pgpoke_spinlock_released(PG_FUNCTION_ARGS)
{
	static slock_t lock;

	SpinLockInit(&lock);
	say_stuck(__func__);
	SpinLockAcquire(&lock);
	turns = 0;
	SpinLockRelease(&lock);
	spin();
	PG_RETURN_VOID();
}

/*
 * One that is in shared memory: held until a cancel is pending, and waited for
 * by another process.
 */
/* No header of the server has it, and every version exports it (src/backend/storage/ipc/shmem.c). */
extern slock_t *ShmemLock;

PG_FUNCTION_INFO_V1(pgpoke_spinlock_hold);
Datum
pgpoke_spinlock_hold(PG_FUNCTION_ARGS)
{
	slock_t    *lock = ShmemLock;

	SpinLockAcquire(lock);
	say_stuck(__func__);
	while (!QueryCancelPending)
		turns++;
	SpinLockRelease(lock);
	CHECK_FOR_INTERRUPTS();
	PG_RETURN_VOID();
}

PG_FUNCTION_INFO_V1(pgpoke_spinlock_wait);
Datum
pgpoke_spinlock_wait(PG_FUNCTION_ARGS)
{
	slock_t    *lock = ShmemLock;

	say_stuck(__func__);
	SpinLockAcquire(lock);
	turns = 0;
	SpinLockRelease(lock);
	CHECK_FOR_INTERRUPTS();
	PG_RETURN_VOID();
}

/* Once, and where the innermost subtransaction is half ended. */
static bool spins_at_subtransaction_end;

static void
at_subtransaction_end(SubXactEvent event, SubTransactionId own, SubTransactionId parent, void *arg)
{
	if (event != SUBXACT_EVENT_COMMIT_SUB || !spins_at_subtransaction_end)
		return;
	spins_at_subtransaction_end = false;
	say_stuck(__func__);
	spin();
	/* Or spin() would be jumped to, and this would have no frame. */
	turns = 0;
}

/*
 * A callback that takes for ever: bookkeeping of an extension, when one of its
 * caller's subtransactions ends.  pgpoke_subtransaction() has one that does.
 */
PG_FUNCTION_INFO_V1(pgpoke_at_subtransaction_end);
Datum
pgpoke_at_subtransaction_end(PG_FUNCTION_ARGS)
{
	static bool registered;

	if (!registered)
		RegisterSubXactCallback(at_subtransaction_end, NULL);
	registered = true;
	spins_at_subtransaction_end = true;
	PG_RETURN_VOID();
}

/*
 * "except: pass": code that catches every error, the cancel among them, and
 * carries on.  FATAL gets through.
 */
PG_FUNCTION_INFO_V1(pgpoke_swallow);
Datum
pgpoke_swallow(PG_FUNCTION_ARGS)
{
	MemoryContext context = CurrentMemoryContext;

	say_stuck(__func__);
	while (stuck)
	{
		PG_TRY();
		{
			spin();
		}
		PG_CATCH();
		{
			MemoryContextSwitchTo(context);
			FlushErrorState();
		}
		PG_END_TRY();
	}
	PG_RETURN_VOID();
}

/* ---- Inside an allocator, where most instructions are bad ones to be interrupted at ---- */

/*
 * Sizes as an allocator meets them: mostly small, some from every other of its
 * size classes.
 */
static size_t
some_size(uint64 *state)
{
	*state ^= *state << 13;
	*state ^= *state >> 7;
	*state ^= *state << 17;
	return 16 + (*state >> 8) % ((size_t) 1 << (5 + *state % 14));
}

/*
 * With up to 64 blocks alive, there is always something to split and to merge.
 */
static pg_noinline void
malloc_loop(uint64 seed)
{
	void	   *blocks[64] = {NULL};

	for (uint64 i = 0; stuck; i++)
	{
		int			slot = i % lengthof(blocks);

		free(blocks[slot]);
		blocks[slot] = malloc(some_size(&seed));
		if (blocks[slot] != NULL)
			*(volatile char *) blocks[slot] = 1;
	}
}

static void *
malloc_thread(void *seed)
{
	malloc_loop(*(uint64 *) seed);
	return NULL;
}

/*
 * A C or C++ library that builds and tears down its data structures in an
 * endless loop.
 */
PG_FUNCTION_INFO_V1(pgpoke_malloc);
Datum
pgpoke_malloc(PG_FUNCTION_ARGS)
{
	say_stuck(__func__);
	malloc_loop(88172645463325252);
	PG_RETURN_VOID();
}

/*
 * The same beside a second thread that allocates, too: now malloc takes locks,
 * and whoever jumps out of it takes them along.  As with a library's worker
 * threads, a cancelled statement does not end it: it lives as long as the session.
 */
PG_FUNCTION_INFO_V1(pgpoke_malloc_threads);
Datum
pgpoke_malloc_threads(PG_FUNCTION_ARGS)
{
	static bool started = false;
	static uint64 seed = 2463534242;

	if (!started)
		start_thread(malloc_thread, &seed);
	started = true;
	say_stuck(__func__);
	malloc_loop(88172645463325252);
	PG_RETURN_VOID();
}

/* So many calls deep, where it waits for ever. */
static pg_noinline uint64
wait_below(int depth)
{
	if (depth <= 0)
	{
		do
			pause();
		while (turns != PG_UINT64_MAX);
		return turns;
	}
	return wait_below(depth - 1) + turns;
}

static void *
waiting_thread(void *depth)
{
	wait_below((int) (intptr_t) depth);
	return NULL;
}

/*
 * A loop beside threads that wait, each one call deeper than the last: a
 * library's idle workers.
 */
PG_FUNCTION_INFO_V1(pgpoke_threads);
Datum
pgpoke_threads(PG_FUNCTION_ARGS)
{
	for (int n = 1; n <= PG_GETARG_INT32(0); n++)
		start_thread(waiting_thread, (void *) (intptr_t) n);
	say_stuck(__func__);
	spin();
	PG_RETURN_VOID();
}

/*
 * An extension that allocates as it should, in an endless loop; chunks above 8
 * kB go on to malloc.
 */
PG_FUNCTION_INFO_V1(pgpoke_palloc);
Datum
pgpoke_palloc(PG_FUNCTION_ARGS)
{
	void	   *chunks[16] = {NULL};
	uint64		state = 88172645463325252;

	say_stuck(__func__);
	for (uint64 i = 0; stuck; i++)
	{
		int			slot = i % lengthof(chunks);

		if (chunks[slot] != NULL)
			pfree(chunks[slot]);
		chunks[slot] = palloc(some_size(&state));
	}
	PG_RETURN_VOID();
}

/* ---- Other languages ---- */

extern void pgpoke_with_destructor(void (*function) (void));

/* A C++ library below the loop: whoever jumps across it skips a destructor. */
PG_FUNCTION_INFO_V1(pgpoke_cplusplus);
Datum
pgpoke_cplusplus(PG_FUNCTION_ARGS)
{
#ifdef WITHOUT_CPLUSPLUS
	elog(ERROR, "built without C++");
#else
	say_stuck(__func__);
	pgpoke_with_destructor(spin);
#endif
	PG_RETURN_VOID();
}

/* ---- Stacks ---- */

static int
endless_comparator(const void *a, const void *b)
{
	spin();
	return *(const int *) a - *(const int *) b;
}

/* port.h makes qsort() PostgreSQL's own; this one is to be libc's. */
#undef qsort

/*
 * A callback out of a library: the frames of libc lie between two of the
 * extension.
 */
PG_FUNCTION_INFO_V1(pgpoke_qsort);
Datum
pgpoke_qsort(PG_FUNCTION_ARGS)
{
	int			numbers[64];

	for (int i = 0; i < 64; i++)
		numbers[i] = 64 - i;
	say_stuck(__func__);
	qsort(numbers, lengthof(numbers), sizeof(numbers[0]), endless_comparator);
	turns = numbers[0];
	PG_RETURN_VOID();
}

/*
 * The addition after the call keeps it from becoming a jump, which would leave
 * one frame only.
 */
static pg_noinline uint64
descend(int depth)
{
	check_stack_depth();
	if (depth <= 1)
	{
		say_stuck("pgpoke_deep");
		spin();
		return turns;
	}
	return descend(depth - 1) + turns;
}

/*
 * Recursion of the given depth: a stack that does not fit into one small copy.
 */
PG_FUNCTION_INFO_V1(pgpoke_deep);
Datum
pgpoke_deep(PG_FUNCTION_ARGS)
{
	turns = descend(PG_GETARG_INT32(0));
	PG_RETURN_VOID();
}

/* ---- Variables of each kind, for whoever shows them ---- */

typedef enum Metal
{
	IRON = 3,
	GOLD = 7
} Metal;

typedef enum Permits
{
	MAY_READ = 1,
	MAY_WRITE = 2,
	MAY_RUN = 4
} Permits;

typedef struct Spot
{
	int16		x;
	int16		y;
} Spot;

typedef union Word
{
	uint32		whole;
	uint8		parts[4];
} Word;

typedef struct Chest
{
	Spot		spot;
	Word		word;
	unsigned int locked:1;
	int			weight:5;
	Metal		metal:4;
	union
	{
		int32		coins;
		float4		dust;
	};
	const char *label;
	struct Chest *next;
} Chest;

/* The compiler must neither see through this nor do without what it is given. */
#define KEEP(variable) __asm__ volatile("" : : "r"(&(variable)) : "memory")

static int
one_more(int n)
{
	return n + 1;
}

static pg_noinline int
show_kinds(int number, const char *word, Chest chest, Chest *other, int unused, double ratio,
		   uint8 seventh, int64 on_the_stack)
{
	static int	calls = 41;
	static const char *const motto = "festina lente";
	bool		yes = true;
	char		letter = 'x';
	signed char negative = -3;
	unsigned char control = 7;
	float		third = 1.0f / 3;
	double		values[5] = {0.1, -2.5e300, 1e-7, 3, 1.0 / 0.0};
	int			numbers[24] = {1, 2, 2};
	int			grid[2][3] = {{1, 2, 3}, {4, 5, 6}};
	char		buffer[48] = "tab\there, \"quote\", \x01" "2";
	char		blank[4] = "";
	char		full[3] = {'a', 'b', 'c'};
	char	   *nothing = NULL;
	char	   *wild = (char *) 16;
	char		dashes[300];
	char	   *line = dashes;
	int			(*function) (int) = one_more;
	int		   *to_static = &calls;
	void	   *untyped = &calls;
	Chest	   *implicit = &chest;
	Metal		metal = GOLD;
	Metal		alloy = (Metal) 5;
	Permits		permits = MAY_READ | MAY_RUN;
	Permits		odd = (Permits) 24;
	Spot		spots[12];
	volatile uint64 big = UINT64CONST(18446744073709551615);
	volatile int64 small = PG_INT64_MIN;
	int			doubled = number * 2;
	int			lost = doubled + 1;

	calls++;
	memset(dashes, '-', sizeof(dashes));
	dashes[7] = '+';
	dashes[299] = '\0';
	memset(spots, 0, sizeof(spots));
	spots[0].x = 1;
	KEEP(motto); KEEP(yes); KEEP(letter); KEEP(negative); KEEP(control); KEEP(third); KEEP(values);
	KEEP(numbers); KEEP(grid); KEEP(buffer); KEEP(blank); KEEP(full); KEEP(nothing); KEEP(wild);
	KEEP(line); KEEP(function); KEEP(to_static); KEEP(untyped); KEEP(metal); KEEP(alloy);
	KEEP(permits); KEEP(odd); KEEP(spots); KEEP(big); KEEP(small); KEEP(ratio); KEEP(seventh); KEEP(on_the_stack);
	turns = lost;
	{
		int			number = 99;

		KEEP(number);
		spin();
		turns = number;
	}
	turns = implicit->spot.x + doubled + other->spot.y;
	return strlen(word);
}

/* Passes on what it got, so that all of it is kept somewhere until then. */
#if defined(__clang__)
#define NO_IPA pg_noinline
#else
#define NO_IPA __attribute__((noipa))
#endif

static NO_IPA int
pass_kinds(int number, const char *word, Chest chest, Chest *other, double ratio, uint8 seventh,
		   bool eighth, Metal metal, int64 on_the_stack)
{
	int			length = show_kinds(number, word, chest, other, 5, ratio, seventh, on_the_stack);

	KEEP(chest);
	return length + (int) ratio + seventh + eighth + metal + (int) on_the_stack;
}

/*
 * A function with variables of each kind that C has: also ones that the
 * compiler did away with.
 */
PG_FUNCTION_INFO_V1(pgpoke_locals);
Datum
pgpoke_locals(PG_FUNCTION_ARGS)
{
	Chest		last = {.spot = {-1, -2}, .word = {.whole = 0x01020304}, .weight = -9, .metal = IRON};
	Chest		chest = {.spot = {3, 4}, .word = {.whole = 0x61626364}, .locked = 1, .weight = 13,
	.metal = GOLD, .coins = 1065353216, .label = "treasure", .next = &last};

	say_stuck(__func__);
	turns = pass_kinds(PG_GETARG_INT32(0), "word", chest, &last, 2.5, 200, true, GOLD, -6);
	turns = last.spot.x;
	PG_RETURN_VOID();
}

/* ---- Measuring, from the inside, what is done to the backend ---- */

#define ROUND_TURNS 4000

/* Chaotic on purpose: whatever bit is lost on the way, the result tells. */
static volatile double chaos_rate = 3.99;

static pg_noinline long double
chaos_long_double(void)				/* the x87 on x86-64 */
{
	long double x = 0.4L,
				rate = chaos_rate;

	for (int i = 0; i < ROUND_TURNS; i++)
		x = rate * x * (1 - x);
	return x;
}

static pg_noinline double
chaos_double(void)
{
	double		x = 0.4,
				rate = chaos_rate;

	for (int i = 0; i < ROUND_TURNS; i++)
		x = rate * x * (1 - x);
	return x;
}

/*
 * All that a round computes, as bits.  Zeroed before each, padding included.
 */
typedef struct Computed
{
	long double x87;
	double		sse;
	double		avx[4];
	double		avx512[8];
	sigset_t	mask;
} Computed;

#ifdef __x86_64__

typedef double Vector4 __attribute__((vector_size(32)));
typedef double Vector8 __attribute__((vector_size(64)));

static pg_noinline void __attribute__((target("avx")))
chaos_avx(double *result)
{
	Vector4		x = {0.1, 0.2, 0.3, 0.4};
	double		rate = chaos_rate;

	for (int i = 0; i < ROUND_TURNS; i++)
		x = rate * x * (1 - x);
	memcpy(result, &x, sizeof(x));
}

static pg_noinline void __attribute__((target("avx512f")))
chaos_avx512(double *result)
{
	Vector8		x = {0.1, 0.2, 0.3, 0.4, 0.6, 0.7, 0.8, 0.9};
	double		rate = chaos_rate;

	for (int i = 0; i < ROUND_TURNS; i++)
		x = rate * x * (1 - x);
	memcpy(result, &x, sizeof(x));
}

static const char *const held_names[] = {
	"rax", "rbx", "rcx", "rdx", "rsi", "rbp", "r8", "r9", "r10", "r11", "r12", "r13", "r14", "r15", "rdi",
	"red zone -8", "red zone -16", "red zone -24", "red zone -32",
	"red zone -40", "red zone -48", "red zone -56", "red zone -64",
	"red zone -72", "red zone -80", "red zone -88", "red zone -96",
	"red zone -104", "red zone -112", "red zone -120", "red zone -128",
	"flags",
};

#define HELD lengthof(held_names)

/* Carry, parity, adjust, zero, sign, trap, direction, overflow. */
#define HELD_FLAGS UINT64CONST(0xDD5)
/*
 * What the loop below leaves of them: carry and direction set by hand, zero
 * and parity by the last decrement.
 */
#define EXPECTED_FLAGS UINT64CONST(0x445)

/*
 * Hold a canary in every register but the stack pointer, in the carry and
 * direction flags, and in the whole red zone; spin; bring them all back.
 *
 * Naked, since a compiler would not lend out rbp or the red zone.  The counter
 * lives on the stack: DEC leaves the carry flag alone, and XCHG, MOV and LEA
 * leave all flags alone.  After the first eight pushes there is no other until
 * the red zone has been read.
 */
static pg_noinline void __attribute__((naked))
hold(uint64 *held, uint64 count)
{
	__asm__(
			"	pushq	%rbp\n"
			"	.cfi_adjust_cfa_offset 8\n"
			"	.cfi_rel_offset rbp, 0\n"
			"	pushq	%rbx\n"
			"	.cfi_adjust_cfa_offset 8\n"
			"	.cfi_rel_offset rbx, 0\n"
			"	pushq	%r12\n"
			"	.cfi_adjust_cfa_offset 8\n"
			"	.cfi_rel_offset r12, 0\n"
			"	pushq	%r13\n"
			"	.cfi_adjust_cfa_offset 8\n"
			"	.cfi_rel_offset r13, 0\n"
			"	pushq	%r14\n"
			"	.cfi_adjust_cfa_offset 8\n"
			"	.cfi_rel_offset r14, 0\n"
			"	pushq	%r15\n"
			"	.cfi_adjust_cfa_offset 8\n"
			"	.cfi_rel_offset r15, 0\n"
			"	pushq	%rdi\n"				/* 8(%rsp): held */
			"	.cfi_adjust_cfa_offset 8\n"
			"	pushq	%rsi\n"				/* (%rsp): count */
			"	.cfi_adjust_cfa_offset 8\n"

			LOAD_REGISTERS

			"1:	decq	(%rsp)\n"
			"	jnz		1b\n"

			STORE_REGISTERS
			"	leaq	8(%rsp), %rsp\n"
			"	.cfi_adjust_cfa_offset -8\n"
			"	pushfq\n"
			"	.cfi_adjust_cfa_offset 8\n"
			"	cld\n"						/* which the ABI wants on return */
			"	popq	%rcx\n"
			"	.cfi_adjust_cfa_offset -8\n"
			"	movq	%rcx, 248(%rax)\n"
			"	popq	%rcx\n"
			"	.cfi_adjust_cfa_offset -8\n"
			"	movq	%rcx, 0(%rax)\n"

			"	popq	%r15\n"
			"	.cfi_adjust_cfa_offset -8\n"
			"	.cfi_restore r15\n"
			"	popq	%r14\n"
			"	.cfi_adjust_cfa_offset -8\n"
			"	.cfi_restore r14\n"
			"	popq	%r13\n"
			"	.cfi_adjust_cfa_offset -8\n"
			"	.cfi_restore r13\n"
			"	popq	%r12\n"
			"	.cfi_adjust_cfa_offset -8\n"
			"	.cfi_restore r12\n"
			"	popq	%rbx\n"
			"	.cfi_adjust_cfa_offset -8\n"
			"	.cfi_restore rbx\n"
			"	popq	%rbp\n"
			"	.cfi_adjust_cfa_offset -8\n"
			"	.cfi_restore rbp\n"
			"	ret\n");
}

/*
 * The first register or stack word that did not keep its canary, described; or
 * NULL.
 */
static char *
check_held(uint64 seed)
{
	uint64		held[HELD];
	uint64		expected[HELD];

	for (int i = 0; i < (int) HELD; i++)
		held[i] = expected[i] = (seed + i + 1) * UINT64CONST(0x9E3779B97F4A7C15);
	expected[HELD - 1] = EXPECTED_FLAGS;
	hold(held, ROUND_TURNS);
	held[HELD - 1] &= HELD_FLAGS;
	for (int i = 0; i < (int) HELD; i++)
		if (held[i] != expected[i])
			return psprintf("%s is 0x%llx, was 0x%llx", held_names[i],
							(unsigned long long) held[i], (unsigned long long) expected[i]);
	return NULL;
}

/*
 * Rounding towards zero in both floating-point units, as nothing in a server
 * does: the kernel starts a signal handler with the default control words, and
 * only a true return from it brings these back.
 */
#define MXCSR_DEFAULT 0x1F80
#define MXCSR_CANARY 0x7F80
#define MXCSR_STICKY 0x003F			/* exceptions seen: these may change */
#define X87_DEFAULT 0x037F
#define X87_CANARY 0x0F7F

static void
set_control_words(uint32 mxcsr, uint16 x87)
{
	__asm__ volatile("ldmxcsr %0\n\tfldcw %1" : : "m"(mxcsr), "m"(x87) : "memory");
}

static char *
check_control_words(void)
{
	uint32		mxcsr;
	uint16		x87;

	__asm__ volatile("stmxcsr %0\n\tfnstcw %1" : "=m"(mxcsr), "=m"(x87) : : "memory");
	mxcsr &= ~MXCSR_STICKY;
	if (mxcsr != MXCSR_CANARY)
		return psprintf("mxcsr is 0x%x, was 0x%x", mxcsr, MXCSR_CANARY);
	if (x87 != X87_CANARY)
		return psprintf("the x87 control word is 0x%x, was 0x%x", x87, X87_CANARY);
	return NULL;
}

#endif							/* __x86_64__ */

#define ERRNO_CANARY 4242

/* One round: fill *computed, and check what can be checked on the spot. */
static char *
one_round(uint64 seed, Computed *computed)
{
	char	   *damage = NULL;

	memset(computed, 0, sizeof(*computed));
	errno = ERRNO_CANARY;
#ifdef __x86_64__
	set_control_words(MXCSR_CANARY, X87_CANARY);
#endif
	{
		long double x87 = chaos_long_double();

		/* An assignment may copy the padding, too, which is indeterminate. */
#ifdef __x86_64__
		memcpy(&computed->x87, &x87, 10);
#else
		memcpy(&computed->x87, &x87, sizeof(x87));
#endif
	}
	computed->sse = chaos_double();
#ifdef __x86_64__
	if (__builtin_cpu_supports("avx"))
		chaos_avx(computed->avx);
	if (__builtin_cpu_supports("avx512f"))
		chaos_avx512(computed->avx512);
	damage = check_held(seed);
	if (damage == NULL)
		damage = check_control_words();
	set_control_words(MXCSR_DEFAULT, X87_DEFAULT);
#endif
	if (damage == NULL && errno != ERRNO_CANARY)
		damage = psprintf("errno is %d, was %d", errno, ERRNO_CANARY);
	sigprocmask(SIG_SETMASK, NULL, &computed->mask);
	return damage;
}

static const char *
first_difference(const Computed *first, const Computed *again)
{
#define DIFFERS(field) (memcmp(&first->field, &again->field, sizeof(first->field)) != 0)
	if (DIFFERS(x87))
		return "the long double (x87) result differs";
	if (DIFFERS(sse))
		return "the double (SSE) result differs";
	if (DIFFERS(avx))
		return "the AVX result differs";
	if (DIFFERS(avx512))
		return "the AVX-512 result differs";
	if (DIFFERS(mask))
		return "the signal mask differs";
#undef DIFFERS
	return NULL;
}

/*
 * Whether a measurement shall end before its time: a cancel was asked for.  It
 * is taken back, since the measurement's answer is wanted, and not an error.
 */
static bool
told_to_end(void)
{
	if (!QueryCancelPending)
		return false;
	QueryCancelPending = false;
	return true;
}

/*
 * The witness: computes the same thing over and over for the given time, and
 * tells whether anything that belongs to an interrupted program (registers,
 * flags, red zone, vector and floating-point state, control words, errno,
 * signal mask) was ever not as it was left.  A cancel ends it early, with its
 * answer.
 */
PG_FUNCTION_INFO_V1(pgpoke_checked);
Datum
pgpoke_checked(PG_FUNCTION_ARGS)
{
	double		end = seconds_now() + PG_GETARG_FLOAT8(0);
	Computed	first,
				again;
	uint64		rounds = 0;
	const char *damage;

	say_stuck(__func__);
	damage = one_round(rounds, &first);
	do
	{
		rounds++;
		if (damage == NULL)
			damage = one_round(rounds, &again);
		if (damage == NULL)
			damage = first_difference(&first, &again);
		if (damage != NULL)
			PG_RETURN_TEXT_P(cstring_to_text(psprintf("round %llu: %s", (unsigned long long) rounds, damage)));
	} while (seconds_now() < end && !told_to_end());
	PG_RETURN_TEXT_P(cstring_to_text(psprintf("ok, %llu rounds", (unsigned long long) rounds)));
}

/* How often the process has waited for something, whoever made it wait. */
static long
waits_so_far(void)
{
	struct rusage usage;

	getrusage(RUSAGE_SELF, &usage);
	return usage.ru_nvcsw;
}

/*
 * For how long, at most, the backend stood still within the given time, in
 * microseconds.  A cancel ends it early, with its answer.
 *
 * A stop by a tracer counts as a wait.  Where the processor merely was given
 * to somebody else for a while, that was not a wait, and does not count.
 */
PG_FUNCTION_INFO_V1(pgpoke_gap);
Datum
pgpoke_gap(PG_FUNCTION_ARGS)
{
	double		before,
				end,
				widest = 0;
	long		waits;

	say_stuck(__func__);
	waits = waits_so_far();
	before = seconds_now();
	end = before + PG_GETARG_FLOAT8(0);
	while (before < end && !told_to_end())
	{
		double		after = seconds_now();

		/* No stop is as short as this. */
		if (after - before > 5e-6)
		{
			long		waits_now = waits_so_far();

			if (waits_now != waits)
				widest = Max(widest, after - before);
			waits = waits_now;
			after = seconds_now();
		}
		before = after;
	}
	PG_RETURN_FLOAT8(widest * 1e6);
}

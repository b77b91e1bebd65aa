/*
 * Processes other than a client's backend that get stuck: a worker or the
 * leader of a parallel query, a background worker, an autovacuum worker; and
 * a backend that obeys late.
 *
 * A worker has no client to send a NOTICE to: whoever waits for one to be
 * stuck has to look at the process.
 */
#include "postgres.h"

#include <dlfcn.h>
#include <signal.h>

#include "access/parallel.h"
#include "fmgr.h"
#include "libpq/pqsignal.h"
#include "miscadmin.h"
#include "postmaster/autovacuum.h"
#include "postmaster/bgworker.h"
#include "storage/ipc.h"
#include "tcop/tcopprot.h"
#include "utils/builtins.h"
#include "utils/timestamp.h"

#if PG_VERSION_NUM >= 170000
#define IN_AUTOVACUUM AmAutoVacuumWorkerProcess()
#else
#define IN_AUTOVACUUM IsAutoVacuumWorkerProcess()
#endif

static volatile bool stuck = true;
static volatile uint64 turns;

static pg_noinline void
spin(void)
{
	while (stuck)
		turns++;
}

/*
 * Obeys, but late: so many seconds after a signal has come.
 */
PG_FUNCTION_INFO_V1(pgpoke_late);
Datum
pgpoke_late(PG_FUNCTION_ARGS)
{
	TimestampTz until;

	ereport(NOTICE, (errmsg("%s() is stuck from here on", __func__)));
	while (!QueryCancelPending && !ProcDiePending)
		turns++;
	until = GetCurrentTimestamp() + (TimestampTz) (PG_GETARG_FLOAT8(0) * 1000000);
	while (GetCurrentTimestamp() < until)
		turns++;
	CHECK_FOR_INTERRUPTS();
	PG_RETURN_VOID();
}

/*
 * Spins in the leader of a parallel query, or in its workers; the others take
 * their time, so that each of them gets a row to work on.
 */
PG_FUNCTION_INFO_V1(pgpoke_parallel);
Datum
pgpoke_parallel(PG_FUNCTION_ARGS)
{
	bool		in_worker = strcmp(text_to_cstring(PG_GETARG_TEXT_PP(0)), "worker") == 0;

	if (IsParallelWorker() == in_worker)
		spin();
	CHECK_FOR_INTERRUPTS();
	pg_usleep(10000L);
	PG_RETURN_BOOL(true);
}

/*
 * For an index on an expression, which autovacuum's ANALYZE computes.
 */
PG_FUNCTION_INFO_V1(pgpoke_in_autovacuum);
Datum
pgpoke_in_autovacuum(PG_FUNCTION_ARGS)
{
	if (IN_AUTOVACUUM)
		spin();
	PG_RETURN_INT32(PG_GETARG_INT32(0));
}

PGDLLEXPORT void pgpoke_worker_main(Datum arg);

/*
 * A background worker that serves nobody and listens to nobody.  It handles
 * SIGTERM as a backend does; without that, the signal would end it at once.
 */
void
pgpoke_worker_main(Datum arg)
{
	pqsignal(SIGTERM, die);
	BackgroundWorkerUnblockSignals();
	BackgroundWorkerInitializeConnection("postgres", NULL, 0);
	spin();
}

/*
 * Starts such a worker, with that time until it is started again (-1: never).
 */
PG_FUNCTION_INFO_V1(pgpoke_worker);
Datum
pgpoke_worker(PG_FUNCTION_ARGS)
{
	BackgroundWorker worker;
	BackgroundWorkerHandle *handle;
	Dl_info		library;
	pid_t		pid;

	memset(&worker, 0, sizeof(worker));
	worker.bgw_flags = BGWORKER_SHMEM_ACCESS | BGWORKER_BACKEND_DATABASE_CONNECTION;
	worker.bgw_start_time = BgWorkerStart_RecoveryFinished;
	worker.bgw_restart_time = PG_GETARG_INT32(0);
	worker.bgw_notify_pid = MyProcPid;
	if (dladdr((void *) pgpoke_worker_main, &library) == 0)
		elog(ERROR, "dladdr: nothing found");
	snprintf(worker.bgw_library_name, sizeof(worker.bgw_library_name), "%s", library.dli_fname);
	snprintf(worker.bgw_function_name, BGW_MAXLEN, "pgpoke_worker_main");
	snprintf(worker.bgw_name, BGW_MAXLEN, "pgpoke's worker");
	snprintf(worker.bgw_type, BGW_MAXLEN, "pgpoke_worker");
	if (!RegisterDynamicBackgroundWorker(&worker, &handle))
		elog(ERROR, "no room for a background worker");
	if (WaitForBackgroundWorkerStartup(handle, &pid) != BGWH_STARTED)
		elog(ERROR, "the background worker did not start");
	PG_RETURN_INT32(pid);
}

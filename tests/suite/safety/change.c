/*
 * Changes one register of a process, as a debugger would: change PID REGISTER.
 * Ends with 0 if it did, with 3 if this processor has no such register.
 *
 * Not by a debugger, since those of a distribution do not know the register sets of every processor.
 */
#include <cpuid.h>
#include <elf.h>
#include <errno.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ptrace.h>
#include <sys/uio.h>
#include <sys/user.h>
#include <sys/wait.h>

/* XSTATE_BV: which components are not as they are at first. */
#define IN_USE 512
/* XCR0, where the kernel notes it (struct _fpx_sw_bytes). */
#define XCR0 464

struct reg {
	const char *name;
	int set;            /* which register set it is in */
	unsigned component; /* of XSAVE, there */
	size_t at;          /* its place, in the set or the component */
	uint32_t flip;
};

static const struct reg all[] = {
	{"r9", NT_PRSTATUS, 0, offsetof(struct user_regs_struct, r9), 4077},
	{"rbp", NT_PRSTATUS, 0, offsetof(struct user_regs_struct, rbp), 4077},
	{"st2", NT_PRFPREG, 0, 32 + 2 * 16, 4077},
	{"fctrl", NT_PRFPREG, 0, 0, 0x0c00},  /* how the x87 rounds */
	{"mxcsr", NT_PRFPREG, 0, 24, 0x6000}, /* how SSE does */
	{"xmm1", NT_PRFPREG, 0, 160 + 1 * 16, 4077},
	{"ymm3", NT_X86_XSTATE, 2, 3 * 16 + 4, 4077},
	{"zmm3", NT_X86_XSTATE, 6, 3 * 32 + 4, 4077},
	{"zmm20", NT_X86_XSTATE, 7, 4 * 64 + 12, 4077},
	{"k3", NT_X86_XSTATE, 5, 3 * 8, 4077},
};

static char set[1 << 16];

static void fail(const char *what)
{
	fprintf(stderr, "change: %s: %s\n", what, strerror(errno));
	exit(1);
}

int main(int argc, char **argv)
{
	const struct reg *reg = NULL;
	struct iovec iov = {set, sizeof set};
	unsigned size, place = 0, c, d;
	uint64_t mask;
	uint32_t word;
	pid_t pid;
	int status;

	for (size_t i = 0; argc == 3 && i < sizeof all / sizeof *all; i++)
		if (strcmp(all[i].name, argv[2]) == 0)
			reg = &all[i];
	if (!reg) {
		fprintf(stderr, "change: PID REGISTER\n");
		return 2;
	}
	pid = atoi(argv[1]);
	if (ptrace(PTRACE_SEIZE, pid, 0, 0) != 0)
		fail("PTRACE_SEIZE");
	if (ptrace(PTRACE_INTERRUPT, pid, 0, 0) != 0)
		fail("PTRACE_INTERRUPT");
	if (waitpid(pid, &status, __WALL) != pid || !WIFSTOPPED(status))
		fail("waitpid");
	if (ptrace(PTRACE_GETREGSET, pid, (long)reg->set, &iov) != 0) {
		/* Without XSAVE there is no such set. */
		if (reg->set == NT_X86_XSTATE && (errno == ENODEV || errno == EINVAL))
			return 3;
		fail("PTRACE_GETREGSET");
	}
	if (reg->set == NT_X86_XSTATE) {
		memcpy(&mask, set + XCR0, sizeof mask);
		if (!(mask >> reg->component & 1) || !__get_cpuid_count(0xd, reg->component, &size, &place, &c, &d))
			return 3;
		memcpy(&mask, set + IN_USE, sizeof mask);
		mask |= 1ull << reg->component;
		memcpy(set + IN_USE, &mask, sizeof mask);
	}
	memcpy(&word, set + place + reg->at, sizeof word);
	word ^= reg->flip;
	memcpy(set + place + reg->at, &word, sizeof word);
	/* As long as it came: the kernel takes no other length. */
	if (ptrace(PTRACE_SETREGSET, pid, (long)reg->set, &iov) != 0)
		fail("PTRACE_SETREGSET");
	if (ptrace(PTRACE_DETACH, pid, 0, 0) != 0)
		fail("PTRACE_DETACH");
	return 0;
}

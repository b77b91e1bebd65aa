/*
 * What a victim has in its registers and in its red zone, loaded from an
 * array of words that %rdi points to, and stored there again: rax, rbx, rcx,
 * rdx, rsi, rbp, r8 to r15, rdi, and the sixteen words below the stack
 * pointer. (%rsp) is the victim's own count, 8(%rsp) the array.
 */
#ifndef PGPOKE_REGISTERS_H
#define PGPOKE_REGISTERS_H

/* Sets the carry and the direction flag, too. */
#define LOAD_REGISTERS \
	"	.irp	i, 1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16\n" \
	"	movq	8*(14+\\i)(%rdi), %rax\n" \
	"	movq	%rax, -8*\\i(%rsp)\n" \
	"	.endr\n" \
	"	movq	0(%rdi), %rax\n" \
	"	movq	8(%rdi), %rbx\n" \
	"	movq	16(%rdi), %rcx\n" \
	"	movq	24(%rdi), %rdx\n" \
	"	movq	32(%rdi), %rsi\n" \
	"	movq	40(%rdi), %rbp\n" \
	"	movq	48(%rdi), %r8\n" \
	"	movq	56(%rdi), %r9\n" \
	"	movq	64(%rdi), %r10\n" \
	"	movq	72(%rdi), %r11\n" \
	"	movq	80(%rdi), %r12\n" \
	"	movq	88(%rdi), %r13\n" \
	"	movq	96(%rdi), %r14\n" \
	"	movq	104(%rdi), %r15\n" \
	"	movq	112(%rdi), %rdi\n" \
	"	stc\n" \
	"	std\n"

/* Leaves all flags alone. Afterwards %rax points to the array. */
#define STORE_REGISTERS \
	"	xchgq	%rax, 8(%rsp)\n" \
	"	movq	%rbx, 8(%rax)\n" \
	"	movq	%rcx, 16(%rax)\n" \
	"	movq	%rdx, 24(%rax)\n" \
	"	movq	%rsi, 32(%rax)\n" \
	"	movq	%rbp, 40(%rax)\n" \
	"	movq	%r8, 48(%rax)\n" \
	"	movq	%r9, 56(%rax)\n" \
	"	movq	%r10, 64(%rax)\n" \
	"	movq	%r11, 72(%rax)\n" \
	"	movq	%r12, 80(%rax)\n" \
	"	movq	%r13, 88(%rax)\n" \
	"	movq	%r14, 96(%rax)\n" \
	"	movq	%r15, 104(%rax)\n" \
	"	movq	%rdi, 112(%rax)\n" \
	"	.irp	i, 1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16\n" \
	"	movq	-8*\\i(%rsp), %rcx\n" \
	"	movq	%rcx, 8*(14+\\i)(%rax)\n" \
	"	.endr\n"

#endif							/* PGPOKE_REGISTERS_H */

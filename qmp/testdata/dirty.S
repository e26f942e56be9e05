/* A guest that fits in a boot sector and keeps all of its memory changing: each pass writes the
 * pass's number to every page of 8 MiB, having checked that the page holds the one before. A page
 * that a checkpoint missed shows up in the next pass. It says "." on the first serial port every 64
 * passes, and "E" for ever once a page is wrong. */
	.set	BASE, 0x100000
	.set	END, BASE + (8 << 20)
	.set	COM1, 0x3f8

	.code16
	.globl	_start
_start:	cli
	xorw	%ax, %ax
	movw	%ax, %ds
	inb	$0x92, %al		/* A20 on */
	orb	$2, %al
	outb	%al, $0x92
	lgdt	gdtr
	movl	%cr0, %eax
	orl	$1, %eax
	movl	%eax, %cr0
	ljmp	$8, $flat

	.code32
flat:	movw	$16, %ax
	movw	%ax, %ds
	movw	$COM1, %dx
	xorl	%ebx, %ebx		/* number of the pass */
	movl	$BASE, %edi
clear:	movl	%ebx, (%edi)
	addl	$4096, %edi
	cmpl	$END, %edi
	jb	clear
pass:	movl	%ebx, %ecx
	incl	%ebx
	movl	$BASE, %edi
page:	cmpl	%ecx, (%edi)
	jne	wrong
	movl	%ebx, (%edi)
	addl	$4096, %edi
	cmpl	$END, %edi
	jb	page
	testl	$63, %ebx
	jnz	pass
	movb	$'.', %al
	outb	%al, %dx
	jmp	pass
wrong:	movb	$'E', %al
	outb	%al, %dx
	jmp	wrong

	.balign	8
gdt:	.quad	0
	.quad	0x00cf9a000000ffff	/* code, 4 GiB */
	.quad	0x00cf92000000ffff	/* data, 4 GiB */
gdtr:	.word	23
	.long	gdt
	.org	510
	.byte	0x55, 0xaa

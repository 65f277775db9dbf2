	.file	"<string>"
	.section	.ltext,"axl",@progbits
	.globl	_ZN8__main__4make12_3clocals_3e4manyB2v2B40c8tJTIeFIjxB2IKSgI4CrvQClQZ6FcpCShpgEU0AExxxxxxxxxxxxxx
	.p2align	4
	.type	_ZN8__main__4make12_3clocals_3e4manyB2v2B40c8tJTIeFIjxB2IKSgI4CrvQClQZ6FcpCShpgEU0AExxxxxxxxxxxxxx,@function
_ZN8__main__4make12_3clocals_3e4manyB2v2B40c8tJTIeFIjxB2IKSgI4CrvQClQZ6FcpCShpgEU0AExxxxxxxxxxxxxx:
	pushq	%rbp
	pushq	%r15
	pushq	%r14
	pushq	%r13
	pushq	%r12
	pushq	%rbx
	movq	%r8, -24(%rsp)
	movq	%rdx, -32(%rsp)
	movq	%rdi, -40(%rsp)
	cmpq	$0, 104(%rsp)
	jle	.LBB0_8
	cmpq	$0, 96(%rsp)
	jle	.LBB0_8
	movq	88(%rsp), %rbx
	movq	80(%rsp), %r15
	movq	72(%rsp), %rax
	movq	%rax, -48(%rsp)
	movq	56(%rsp), %rbp
	leaq	(%rcx,%rcx), %rax
	leaq	(,%rcx,8), %r11
	subq	%rcx, %r11
	leaq	(%rax,%rax,2), %rax
	leaq	(,%r9,8), %rsi
	subq	%r9, %rsi
	leaq	(%r9,%r9), %rdx
	leaq	(%rdx,%rdx,2), %r8
	leaq	(%r9,%r9,4), %rdx
	leaq	(%r9,%r9,2), %r10
	xorl	%r14d, %r14d
	jmp	.LBB0_3
	.p2align	4
.LBB0_7:
	movq	-16(%rsp), %r14
	incq	%r14
	movq	-48(%rsp), %rdi
	addq	112(%rsp), %rdi
	movq	%rdi, -48(%rsp)
	cmpq	104(%rsp), %r14
	je	.LBB0_8
.LBB0_3:
	movq	%r14, -16(%rsp)
	imulq	120(%rsp), %r14
	addq	-32(%rsp), %r14
	movq	%r14, -8(%rsp)
	movq	-24(%rsp), %r13
	xorl	%r12d, %r12d
	jmp	.LBB0_4
	.p2align	4
.LBB0_5:
	vxorps	%xmm22, %xmm22, %xmm22
	vxorps	%xmm23, %xmm23, %xmm23
	vxorps	%xmm21, %xmm21, %xmm21
	vxorps	%xmm20, %xmm20, %xmm20
	vxorps	%xmm19, %xmm19, %xmm19
	vxorps	%xmm18, %xmm18, %xmm18
	vxorps	%xmm17, %xmm17, %xmm17
	vxorps	%xmm16, %xmm16, %xmm16
	vxorps	%xmm15, %xmm15, %xmm15
	vxorps	%xmm14, %xmm14, %xmm14
	vxorps	%xmm13, %xmm13, %xmm13
	vxorps	%xmm12, %xmm12, %xmm12
	vxorps	%xmm11, %xmm11, %xmm11
	vxorps	%xmm10, %xmm10, %xmm10
	vxorps	%xmm9, %xmm9, %xmm9
	vxorps	%xmm8, %xmm8, %xmm8
	vxorps	%xmm7, %xmm7, %xmm7
	vxorps	%xmm6, %xmm6, %xmm6
	vxorps	%xmm5, %xmm5, %xmm5
	vxorps	%xmm4, %xmm4, %xmm4
	vxorps	%xmm3, %xmm3, %xmm3
	vxorps	%xmm2, %xmm2, %xmm2
	vxorps	%xmm1, %xmm1, %xmm1
	vxorps	%xmm0, %xmm0, %xmm0
.LBB0_6:
	leaq	1(%r12), %rdi
	imulq	128(%rsp), %r12
	addq	-8(%rsp), %r12
	vmovups	%zmm22, (%r12)
	vmovups	%zmm23, 64(%r12)
	vmovups	%zmm21, 128(%r12)
	vmovups	%zmm20, (%r12,%rcx)
	vmovups	%zmm19, 64(%r12,%rcx)
	vmovups	%zmm18, 128(%r12,%rcx)
	vmovups	%zmm17, (%r12,%rcx,2)
	vmovups	%zmm16, 64(%r12,%rcx,2)
	vmovups	%zmm15, 128(%r12,%rcx,2)
	leaq	(%rcx,%rcx,2), %rbx
	vmovups	%zmm14, (%r12,%rbx)
	vmovups	%zmm13, 64(%r12,%rbx)
	vmovups	%zmm12, 128(%r12,%rbx)
	vmovups	%zmm11, (%r12,%rcx,4)
	vmovups	%zmm10, 64(%r12,%rcx,4)
	vmovups	%zmm9, 128(%r12,%rcx,4)
	leaq	(%rcx,%rcx,4), %rbx
	vmovups	%zmm8, (%r12,%rbx)
	vmovups	%zmm7, 64(%r12,%rbx)
	vmovups	%zmm6, 128(%r12,%rbx)
	vmovups	%zmm5, (%r12,%rax)
	vmovups	%zmm4, 64(%r12,%rax)
	vmovups	%zmm3, 128(%r12,%rax)
	vmovups	%zmm2, (%r12,%r11)
	vmovups	%zmm1, 64(%r12,%r11)
	vmovups	%zmm0, 128(%r12,%r11)
	addq	64(%rsp), %r13
	movq	%rdi, %r12
	cmpq	%rdi, 96(%rsp)
	movq	88(%rsp), %rbx
	je	.LBB0_7
.LBB0_4:
	testq	%rbx, %rbx
	jle	.LBB0_5
	vxorps	%xmm0, %xmm0, %xmm0
	movq	%r13, %r14
	movq	-48(%rsp), %rdi
	vxorps	%xmm1, %xmm1, %xmm1
	vxorps	%xmm2, %xmm2, %xmm2
	vxorps	%xmm3, %xmm3, %xmm3
	vxorps	%xmm4, %xmm4, %xmm4
	vxorps	%xmm5, %xmm5, %xmm5
	vxorps	%xmm6, %xmm6, %xmm6
	vxorps	%xmm7, %xmm7, %xmm7
	vxorps	%xmm8, %xmm8, %xmm8
	vxorps	%xmm9, %xmm9, %xmm9
	vxorps	%xmm10, %xmm10, %xmm10
	vxorps	%xmm11, %xmm11, %xmm11
	vxorps	%xmm12, %xmm12, %xmm12
	vxorps	%xmm13, %xmm13, %xmm13
	vxorps	%xmm14, %xmm14, %xmm14
	vxorps	%xmm15, %xmm15, %xmm15
	vxorps	%xmm16, %xmm16, %xmm16
	vxorps	%xmm17, %xmm17, %xmm17
	vxorps	%xmm18, %xmm18, %xmm18
	vxorps	%xmm19, %xmm19, %xmm19
	vxorps	%xmm20, %xmm20, %xmm20
	vxorps	%xmm21, %xmm21, %xmm21
	vxorps	%xmm23, %xmm23, %xmm23
	vxorps	%xmm22, %xmm22, %xmm22
	.p2align	4
.LBB0_10:
	vmovups	(%rdi), %zmm24
	vmovups	64(%rdi), %zmm25
	vmovups	128(%rdi), %zmm26
	vbroadcastss	(%r14), %zmm27
	vfmadd231ps	%zmm24, %zmm27, %zmm22
	vfmadd231ps	%zmm25, %zmm27, %zmm23
	vfmadd231ps	%zmm27, %zmm26, %zmm21
	vbroadcastss	(%r9,%r14), %zmm27
	vfmadd231ps	%zmm24, %zmm27, %zmm20
	vfmadd231ps	%zmm25, %zmm27, %zmm19
	vfmadd231ps	%zmm27, %zmm26, %zmm18
	vbroadcastss	(%r14,%r9,2), %zmm27
	vfmadd231ps	%zmm24, %zmm27, %zmm17
	vfmadd231ps	%zmm25, %zmm27, %zmm16
	vfmadd231ps	%zmm27, %zmm26, %zmm15
	vbroadcastss	(%r10,%r14), %zmm27
	vfmadd231ps	%zmm24, %zmm27, %zmm14
	vfmadd231ps	%zmm25, %zmm27, %zmm13
	vfmadd231ps	%zmm27, %zmm26, %zmm12
	vbroadcastss	(%r14,%r9,4), %zmm27
	vfmadd231ps	%zmm24, %zmm27, %zmm11
	vfmadd231ps	%zmm25, %zmm27, %zmm10
	vfmadd231ps	%zmm27, %zmm26, %zmm9
	vbroadcastss	(%rdx,%r14), %zmm27
	vfmadd231ps	%zmm24, %zmm27, %zmm8
	vfmadd231ps	%zmm25, %zmm27, %zmm7
	vfmadd231ps	%zmm27, %zmm26, %zmm6
	vbroadcastss	(%r8,%r14), %zmm27
	vfmadd231ps	%zmm24, %zmm27, %zmm5
	vfmadd231ps	%zmm25, %zmm27, %zmm4
	vfmadd231ps	%zmm27, %zmm26, %zmm3
	vbroadcastss	(%rsi,%r14), %zmm27
	vfmadd231ps	%zmm24, %zmm27, %zmm2
	vfmadd231ps	%zmm25, %zmm27, %zmm1
	vfmadd231ps	%zmm26, %zmm27, %zmm0
	addq	%r15, %rdi
	addq	%rbp, %r14
	decq	%rbx
	jne	.LBB0_10
	jmp	.LBB0_6
.LBB0_8:
	movq	-40(%rsp), %rax
	movq	$0, (%rax)
	xorl	%eax, %eax
	popq	%rbx
	popq	%r12
	popq	%r13
	popq	%r14
	popq	%r15
	popq	%rbp
	vzeroupper
	retq
.Lfunc_end0:
	.size	_ZN8__main__4make12_3clocals_3e4manyB2v2B40c8tJTIeFIjxB2IKSgI4CrvQClQZ6FcpCShpgEU0AExxxxxxxxxxxxxx, .Lfunc_end0-_ZN8__main__4make12_3clocals_3e4manyB2v2B40c8tJTIeFIjxB2IKSgI4CrvQClQZ6FcpCShpgEU0AExxxxxxxxxxxxxx

	.globl	_ZN7cpython8__main__4make12_3clocals_3e4manyB2v2B40c8tJTIeFIjxB2IKSgI4CrvQClQZ6FcpCShpgEU0AExxxxxxxxxxxxxx
	.p2align	4
	.type	_ZN7cpython8__main__4make12_3clocals_3e4manyB2v2B40c8tJTIeFIjxB2IKSgI4CrvQClQZ6FcpCShpgEU0AExxxxxxxxxxxxxx,@function
_ZN7cpython8__main__4make12_3clocals_3e4manyB2v2B40c8tJTIeFIjxB2IKSgI4CrvQClQZ6FcpCShpgEU0AExxxxxxxxxxxxxx:
	.cfi_startproc
	pushq	%rbp
	.cfi_def_cfa_offset 16
	pushq	%r15
	.cfi_def_cfa_offset 24
	pushq	%r14
	.cfi_def_cfa_offset 32
	pushq	%r13
	.cfi_def_cfa_offset 40
	pushq	%r12
	.cfi_def_cfa_offset 48
	pushq	%rbx
	.cfi_def_cfa_offset 56
	subq	$216, %rsp
	.cfi_def_cfa_offset 272
	.cfi_offset %rbx, -56
	.cfi_offset %r12, -48
	.cfi_offset %r13, -40
	.cfi_offset %r14, -32
	.cfi_offset %r15, -24
	.cfi_offset %rbp, -16
	movq	%rsi, %rdi
	leaq	96(%rsp), %r13
	leaq	104(%rsp), %r15
	leaq	112(%rsp), %r14
	leaq	120(%rsp), %r11
	leaq	128(%rsp), %r10
	leaq	136(%rsp), %rbp
	movl	$14, %edx
	movl	$14, %ecx
	movabsq	$".const.make.<locals>.many", %rsi
	movabsq	$PyArg_UnpackTuple, %r12
	xorl	%ebx, %ebx
	leaq	200(%rsp), %r8
	leaq	192(%rsp), %r9
	xorl	%eax, %eax
	pushq	%r13
	.cfi_adjust_cfa_offset 8
	pushq	%r15
	.cfi_adjust_cfa_offset 8
	pushq	%r14
	.cfi_adjust_cfa_offset 8
	pushq	%r11
	.cfi_adjust_cfa_offset 8
	pushq	%r10
	.cfi_adjust_cfa_offset 8
	pushq	%rbp
	.cfi_adjust_cfa_offset 8
	leaq	192(%rsp), %r10
	pushq	%r10
	.cfi_adjust_cfa_offset 8
	leaq	208(%rsp), %r10
	pushq	%r10
	.cfi_adjust_cfa_offset 8
	leaq	224(%rsp), %r10
	pushq	%r10
	.cfi_adjust_cfa_offset 8
	leaq	240(%rsp), %r10
	pushq	%r10
	.cfi_adjust_cfa_offset 8
	leaq	256(%rsp), %r10
	pushq	%r10
	.cfi_adjust_cfa_offset 8
	leaq	272(%rsp), %r10
	pushq	%r10
	.cfi_adjust_cfa_offset 8
	callq	*%r12
	addq	$96, %rsp
	.cfi_adjust_cfa_offset -96
	testl	%eax, %eax
	je	.LBB1_31
	movabsq	$_ZN08NumbaEnv8__main__4make12_3clocals_3e4manyB2v2B40c8tJTIeFIjxB2IKSgI4CrvQClQZ6FcpCShpgEU0AExxxxxxxxxxxxxx, %rax
	cmpq	$0, (%rax)
	je	.LBB1_32
	movq	200(%rsp), %rdi
	movabsq	$PyNumber_Long, %r15
	callq	*%r15
	movabsq	$PyLong_AsLongLong, %r13
	movabsq	$Py_DecRef, %r12
	testq	%rax, %rax
	je	.LBB1_33
	movq	%rax, %rbx
	movq	%rax, %rdi
	callq	*%r13
	movq	%rax, %r14
	movq	%rbx, %rdi
	callq	*%r12
	movabsq	$PyErr_Occurred, %rbp
	callq	*%rbp
	testq	%rax, %rax
	jne	.LBB1_34
.LBB1_4:
	movq	192(%rsp), %rdi
	callq	*%r15
	testq	%rax, %rax
	je	.LBB1_35
	movq	%rax, %rbx
	movq	%rax, %rdi
	callq	*%r13
	movq	%rax, 88(%rsp)
	movq	%rbx, %rdi
	callq	*%r12
	callq	*%rbp
	testq	%rax, %rax
	jne	.LBB1_34
.LBB1_6:
	movq	184(%rsp), %rdi
	callq	*%r15
	testq	%rax, %rax
	je	.LBB1_37
	movq	%rax, %rbx
	movq	%rax, %rdi
	callq	*%r13
	movq	%rax, 80(%rsp)
	movq	%rbx, %rdi
	callq	*%r12
	callq	*%rbp
	testq	%rax, %rax
	jne	.LBB1_34
.LBB1_8:
	movq	176(%rsp), %rdi
	callq	*%r15
	testq	%rax, %rax
	je	.LBB1_39
	movq	%rax, %rbx
	movq	%rax, %rdi
	callq	*%r13
	movq	%rax, 72(%rsp)
	movq	%rbx, %rdi
	callq	*%r12
	callq	*%rbp
	testq	%rax, %rax
	jne	.LBB1_34
.LBB1_10:
	movq	168(%rsp), %rdi
	callq	*%r15
	testq	%rax, %rax
	je	.LBB1_41
	movq	%rax, %rbx
	movq	%rax, %rdi
	callq	*%r13
	movq	%rax, 64(%rsp)
	movq	%rbx, %rdi
	callq	*%r12
	callq	*%rbp
	testq	%rax, %rax
	jne	.LBB1_34
.LBB1_12:
	movq	160(%rsp), %rdi
	callq	*%r15
	testq	%rax, %rax
	je	.LBB1_43
	movq	%rax, %rbx
	movq	%rax, %rdi
	callq	*%r13
	movq	%rax, 56(%rsp)
	movq	%rbx, %rdi
	callq	*%r12
	callq	*%rbp
	testq	%rax, %rax
	jne	.LBB1_34
.LBB1_14:
	movq	152(%rsp), %rdi
	callq	*%r15
	testq	%rax, %rax
	je	.LBB1_45
	movq	%rax, %rbx
	movq	%rax, %rdi
	callq	*%r13
	movq	%rax, 48(%rsp)
	movq	%rbx, %rdi
	callq	*%r12
	callq	*%rbp
	testq	%rax, %rax
	jne	.LBB1_34
.LBB1_16:
	movq	144(%rsp), %rdi
	callq	*%r15
	testq	%rax, %rax
	je	.LBB1_47
	movq	%rax, %rbx
	movq	%rax, %rdi
	callq	*%r13
	movq	%rax, 40(%rsp)
	movq	%rbx, %rdi
	callq	*%r12
	callq	*%rbp
	testq	%rax, %rax
	jne	.LBB1_34
.LBB1_18:
	movq	136(%rsp), %rdi
	callq	*%r15
	testq	%rax, %rax
	je	.LBB1_49
	movq	%rax, %rbx
	movq	%rax, %rdi
	callq	*%r13
	movq	%rax, 32(%rsp)
	movq	%rbx, %rdi
	callq	*%r12
	callq	*%rbp
	testq	%rax, %rax
	jne	.LBB1_34
.LBB1_20:
	movq	128(%rsp), %rdi
	callq	*%r15
	testq	%rax, %rax
	je	.LBB1_51
	movq	%rax, %rbx
	movq	%rax, %rdi
	callq	*%r13
	movq	%rax, 24(%rsp)
	movq	%rbx, %rdi
	callq	*%r12
	callq	*%rbp
	testq	%rax, %rax
	jne	.LBB1_34
.LBB1_22:
	movq	120(%rsp), %rdi
	callq	*%r15
	testq	%rax, %rax
	je	.LBB1_53
	movq	%rax, %rbx
	movq	%rax, %rdi
	callq	*%r13
	movq	%rax, 16(%rsp)
	movq	%rbx, %rdi
	callq	*%r12
	callq	*%rbp
	testq	%rax, %rax
	jne	.LBB1_34
.LBB1_24:
	movq	112(%rsp), %rdi
	callq	*%r15
	testq	%rax, %rax
	je	.LBB1_55
	movq	%rax, %rbx
	movq	%rax, %rdi
	callq	*%r13
	movq	%rax, 8(%rsp)
	movq	%rbx, %rdi
	callq	*%r12
	callq	*%rbp
	testq	%rax, %rax
	jne	.LBB1_34
.LBB1_26:
	movq	%r12, %rbp
	movq	%r14, %r12
	movq	104(%rsp), %rdi
	callq	*%r15
	testq	%rax, %rax
	je	.LBB1_57
	movq	%rax, %r14
	movq	%rax, %rdi
	callq	*%r13
	movq	%rax, %rbx
	movq	%r14, %rdi
	callq	*%rbp
	movabsq	$PyErr_Occurred, %rax
	callq	*%rax
	testq	%rax, %rax
	jne	.LBB1_34
.LBB1_28:
	movq	96(%rsp), %rdi
	callq	*%r15
	testq	%rax, %rax
	je	.LBB1_59
	movq	%rax, %r14
	movq	%rax, %rdi
	callq	*%r13
	movq	%rax, %r15
	movq	%r14, %rdi
	callq	*%rbp
	movabsq	$PyErr_Occurred, %rax
	callq	*%rax
	testq	%rax, %rax
	jne	.LBB1_34
.LBB1_30:
	movabsq	$PyEval_SaveThread, %rax
	callq	*%rax
	movq	%rax, %r14
	movabsq	$_ZN8__main__4make12_3clocals_3e4manyB2v2B40c8tJTIeFIjxB2IKSgI4CrvQClQZ6FcpCShpgEU0AExxxxxxxxxxxxxx, %rax
	leaq	208(%rsp), %rdi
	movq	%r12, %rdx
	movq	88(%rsp), %rcx
	movq	80(%rsp), %r8
	movq	72(%rsp), %r9
	pushq	%r15
	.cfi_adjust_cfa_offset 8
	pushq	%rbx
	.cfi_adjust_cfa_offset 8
	pushq	24(%rsp)
	.cfi_adjust_cfa_offset 8
	pushq	40(%rsp)
	.cfi_adjust_cfa_offset 8
	pushq	56(%rsp)
	.cfi_adjust_cfa_offset 8
	pushq	72(%rsp)
	.cfi_adjust_cfa_offset 8
	pushq	88(%rsp)
	.cfi_adjust_cfa_offset 8
	pushq	104(%rsp)
	.cfi_adjust_cfa_offset 8
	pushq	120(%rsp)
	.cfi_adjust_cfa_offset 8
	pushq	136(%rsp)
	.cfi_adjust_cfa_offset 8
	callq	*%rax
	addq	$80, %rsp
	.cfi_adjust_cfa_offset -80
	movabsq	$PyEval_RestoreThread, %rax
	movq	%r14, %rdi
	callq	*%rax
	movabsq	$_Py_NoneStruct, %rbx
	movabsq	$Py_IncRef, %rax
	movq	%rbx, %rdi
	callq	*%rax
.LBB1_31:
	movq	%rbx, %rax
	addq	$216, %rsp
	.cfi_def_cfa_offset 56
	popq	%rbx
	.cfi_def_cfa_offset 48
	popq	%r12
	.cfi_def_cfa_offset 40
	popq	%r13
	.cfi_def_cfa_offset 32
	popq	%r14
	.cfi_def_cfa_offset 24
	popq	%r15
	.cfi_def_cfa_offset 16
	popq	%rbp
	.cfi_def_cfa_offset 8
	retq
.LBB1_32:
	.cfi_def_cfa_offset 272
	movabsq	$PyExc_RuntimeError, %rdi
	movabsq	$".const.missing Environment: _ZN08NumbaEnv8__main__4make12_3clocals_3e4manyB2v2B40c8tJTIeFIjxB2IKSgI4CrvQClQZ6FcpCShpgEU0AExxxxxxxxxxxxxx", %rsi
	movabsq	$PyErr_SetString, %rax
	callq	*%rax
	xorl	%ebx, %ebx
	jmp	.LBB1_31
.LBB1_33:
	xorl	%r14d, %r14d
	movabsq	$PyErr_Occurred, %rbp
	callq	*%rbp
	testq	%rax, %rax
	je	.LBB1_4
	jmp	.LBB1_34
.LBB1_35:
	movq	$0, 88(%rsp)
	callq	*%rbp
	testq	%rax, %rax
	je	.LBB1_6
	jmp	.LBB1_34
.LBB1_37:
	movq	$0, 80(%rsp)
	callq	*%rbp
	testq	%rax, %rax
	je	.LBB1_8
	jmp	.LBB1_34
.LBB1_39:
	movq	$0, 72(%rsp)
	callq	*%rbp
	testq	%rax, %rax
	je	.LBB1_10
	jmp	.LBB1_34
.LBB1_41:
	movq	$0, 64(%rsp)
	callq	*%rbp
	testq	%rax, %rax
	je	.LBB1_12
	jmp	.LBB1_34
.LBB1_43:
	movq	$0, 56(%rsp)
	callq	*%rbp
	testq	%rax, %rax
	je	.LBB1_14
	jmp	.LBB1_34
.LBB1_45:
	movq	$0, 48(%rsp)
	callq	*%rbp
	testq	%rax, %rax
	je	.LBB1_16
	jmp	.LBB1_34
.LBB1_47:
	movq	$0, 40(%rsp)
	callq	*%rbp
	testq	%rax, %rax
	je	.LBB1_18
	jmp	.LBB1_34
.LBB1_49:
	movq	$0, 32(%rsp)
	callq	*%rbp
	testq	%rax, %rax
	je	.LBB1_20
	jmp	.LBB1_34
.LBB1_51:
	movq	$0, 24(%rsp)
	callq	*%rbp
	testq	%rax, %rax
	je	.LBB1_22
	jmp	.LBB1_34
.LBB1_53:
	movq	$0, 16(%rsp)
	callq	*%rbp
	testq	%rax, %rax
	je	.LBB1_24
	jmp	.LBB1_34
.LBB1_55:
	movq	$0, 8(%rsp)
	callq	*%rbp
	testq	%rax, %rax
	je	.LBB1_26
	jmp	.LBB1_34
.LBB1_57:
	xorl	%ebx, %ebx
	movabsq	$PyErr_Occurred, %rax
	callq	*%rax
	testq	%rax, %rax
	je	.LBB1_28
	jmp	.LBB1_34
.LBB1_59:
	xorl	%r15d, %r15d
	movabsq	$PyErr_Occurred, %rax
	callq	*%rax
	testq	%rax, %rax
	je	.LBB1_30
.LBB1_34:
	xorl	%ebx, %ebx
	jmp	.LBB1_31
.Lfunc_end1:
	.size	_ZN7cpython8__main__4make12_3clocals_3e4manyB2v2B40c8tJTIeFIjxB2IKSgI4CrvQClQZ6FcpCShpgEU0AExxxxxxxxxxxxxx, .Lfunc_end1-_ZN7cpython8__main__4make12_3clocals_3e4manyB2v2B40c8tJTIeFIjxB2IKSgI4CrvQClQZ6FcpCShpgEU0AExxxxxxxxxxxxxx
	.cfi_endproc

	.globl	cfunc._ZN8__main__4make12_3clocals_3e4manyB2v2B40c8tJTIeFIjxB2IKSgI4CrvQClQZ6FcpCShpgEU0AExxxxxxxxxxxxxx
	.p2align	4
	.type	cfunc._ZN8__main__4make12_3clocals_3e4manyB2v2B40c8tJTIeFIjxB2IKSgI4CrvQClQZ6FcpCShpgEU0AExxxxxxxxxxxxxx,@function
cfunc._ZN8__main__4make12_3clocals_3e4manyB2v2B40c8tJTIeFIjxB2IKSgI4CrvQClQZ6FcpCShpgEU0AExxxxxxxxxxxxxx:
	subq	$88, %rsp
	movq	%rcx, %rax
	movq	%rdx, %r10
	movq	%rsi, %rcx
	movq	%rdi, %rdx
	vmovups	96(%rsp), %ymm0
	vmovups	128(%rsp), %ymm1
	movq	$0, 80(%rsp)
	vmovups	%ymm1, 48(%rsp)
	vmovups	%ymm0, 16(%rsp)
	movq	%r9, 8(%rsp)
	movq	%r8, (%rsp)
	movabsq	$_ZN8__main__4make12_3clocals_3e4manyB2v2B40c8tJTIeFIjxB2IKSgI4CrvQClQZ6FcpCShpgEU0AExxxxxxxxxxxxxx, %rsi
	leaq	80(%rsp), %rdi
	movq	%r10, %r8
	movq	%rax, %r9
	vzeroupper
	callq	*%rsi
	movq	80(%rsp), %rax
	addq	$88, %rsp
	retq
.Lfunc_end2:
	.size	cfunc._ZN8__main__4make12_3clocals_3e4manyB2v2B40c8tJTIeFIjxB2IKSgI4CrvQClQZ6FcpCShpgEU0AExxxxxxxxxxxxxx, .Lfunc_end2-cfunc._ZN8__main__4make12_3clocals_3e4manyB2v2B40c8tJTIeFIjxB2IKSgI4CrvQClQZ6FcpCShpgEU0AExxxxxxxxxxxxxx

	.type	".const.make.<locals>.many",@object
	.section	.lrodata,"al",@progbits
	.p2align	4, 0x0
".const.make.<locals>.many":
	.asciz	"make.<locals>.many"
	.size	".const.make.<locals>.many", 19

	.type	_ZN08NumbaEnv8__main__4make12_3clocals_3e4manyB2v2B40c8tJTIeFIjxB2IKSgI4CrvQClQZ6FcpCShpgEU0AExxxxxxxxxxxxxx,@object
	.comm	_ZN08NumbaEnv8__main__4make12_3clocals_3e4manyB2v2B40c8tJTIeFIjxB2IKSgI4CrvQClQZ6FcpCShpgEU0AExxxxxxxxxxxxxx,8,8
	.type	".const.missing Environment: _ZN08NumbaEnv8__main__4make12_3clocals_3e4manyB2v2B40c8tJTIeFIjxB2IKSgI4CrvQClQZ6FcpCShpgEU0AExxxxxxxxxxxxxx",@object
	.p2align	4, 0x0
".const.missing Environment: _ZN08NumbaEnv8__main__4make12_3clocals_3e4manyB2v2B40c8tJTIeFIjxB2IKSgI4CrvQClQZ6FcpCShpgEU0AExxxxxxxxxxxxxx":
	.asciz	"missing Environment: _ZN08NumbaEnv8__main__4make12_3clocals_3e4manyB2v2B40c8tJTIeFIjxB2IKSgI4CrvQClQZ6FcpCShpgEU0AExxxxxxxxxxxxxx"
	.size	".const.missing Environment: _ZN08NumbaEnv8__main__4make12_3clocals_3e4manyB2v2B40c8tJTIeFIjxB2IKSgI4CrvQClQZ6FcpCShpgEU0AExxxxxxxxxxxxxx", 130

	.section	".note.GNU-stack","",@progbits

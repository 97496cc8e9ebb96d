// The instructions and calls of bpf(2) that two small programs need, so that no libbpf is linked.
#pragma once

#include <linux/bpf.h>
#include <stdint.h>
#include <string.h>
#include <sys/syscall.h>

#include "result.h"

#define BPF_MOVE(to, value) ((struct bpf_insn){.code = BPF_ALU64 | BPF_MOV | BPF_K, .dst_reg = to, .imm = (int32_t)(value)})
#define BPF_COPY(to, from) ((struct bpf_insn){.code = BPF_ALU64 | BPF_MOV | BPF_X, .dst_reg = to, .src_reg = from})
#define BPF_ADD_TO(to, value) ((struct bpf_insn){.code = BPF_ALU64 | BPF_ADD | BPF_K, .dst_reg = to, .imm = (int32_t)(value)})
#define BPF_LOAD32(to, from, where) \
    ((struct bpf_insn){.code = BPF_LDX | BPF_MEM | BPF_W, .dst_reg = to, .src_reg = from, .off = where})
#define BPF_STORE32(to, where, value) \
    ((struct bpf_insn){.code = BPF_ST | BPF_MEM | BPF_W, .dst_reg = to, .off = where, .imm = (int32_t)(value)})
/// Compares 32 bits: a 64-bit comparison would sign-extend the immediate value.
#define BPF_SKIP_UNLESS(reg, value, count) \
    ((struct bpf_insn){.code = BPF_JMP32 | BPF_JNE | BPF_K, .dst_reg = reg, .off = count, .imm = (int32_t)(value)})
#define BPF_CALL_HELPER(number) ((struct bpf_insn){.code = BPF_JMP | BPF_CALL, .imm = number})
#define BPF_RETURN ((struct bpf_insn){.code = BPF_JMP | BPF_EXIT})

static inline int bpf_call(enum bpf_cmd command, union bpf_attr *attributes) {
    return result((int)syscall(SYS_bpf, command, attributes, sizeof *attributes)); // descriptors it makes are O_CLOEXEC
}

static inline int bpf_load(enum bpf_prog_type type, const struct bpf_insn *program, uint32_t count) {
    union bpf_attr attributes;
    memset(&attributes, 0, sizeof attributes); // the kernel refuses set bits in what it does not know
    attributes.prog_type = type;
    attributes.insns = (uintptr_t)program;
    attributes.insn_cnt = count;
    attributes.license = (uintptr_t) "Dual MIT/GPL"; // none of the helpers used asks for it
    return bpf_call(BPF_PROG_LOAD, &attributes);
}

// Stopping, freezing, and the guard.

import CProc
import Glibc
import Testing

extension KernelCalls {
    @Suite(.enabled(if: isRoot)) struct Stopping {
        private func withProcess(_ arguments: [String] = ["sleep", "60"], _ body: (_ pid: pid_t, _ pidfd: Int32) throws -> Void) throws {
            let pid = try start(arguments)
            defer { end(pid) }
            let pidfd = try check(cproc_pidfd_open(pid))
            defer { close(pidfd) }
            try body(pid, pidfd)
        }

        @Test func `stop returns when the process is stopped and continue lets it run`() throws {
            try withProcess { pid, pidfd in
                #expect(cproc_stop(pid, pidfd, 1000) == 1)
                #expect(try state(of: pid) == "T")
                try check(cproc_continue(pidfd))
                #expect(try eventually { try state(of: pid) == "S" })
            }
        }

        @Test func `every thread is stopped, busy ones and those behind an ended leader too`() throws {
            // 8 busy threads; the first thread leaves them behind as a zombie.
            let program = """
                import ctypes, threading
                for _ in range(8): threading.Thread(target=lambda: [None for _ in iter(int, 1)]).start()
                ctypes.CDLL(None).pthread_exit(None)
                """
            try withProcess(["python3", "-c", program]) { pid, pidfd in
                try #require(try eventually { try state(of: pid) == "Z" })
                #expect(cproc_stop(pid, pidfd, 2000) == 8)
                let states = try names(in: "/proc/\(pid)/task").map { try state(of: pid_t($0)!) }
                #expect(states.filter { $0 == "T" }.count == 8)
                #expect(states.count == 9)
                try check(cproc_continue(pidfd))
            }
        }

        @Test func `what somebody else stopped is reported`() throws {
            try withProcess { pid, pidfd in
                try check(cproc_pidfd_send_signal(pidfd, SIGSTOP))
                #expect(try eventually { try state(of: pid) == "T" })
                #expect(cproc_stop(pid, pidfd, 1000) == CPROC_ALREADY_STOPPED + 1)
                #expect(try state(of: pid) == "T")
            }
        }

        @Test func `a zombie cannot be stopped`() throws {
            let pid = try start(["true"])
            let pidfd = try check(cproc_pidfd_open(pid))
            defer { close(pidfd) }
            #expect(try eventually { try state(of: pid) == "Z" })
            #expect(cproc_stop(pid, pidfd, 1000) == -ESRCH)
            waitpid(pid, nil, 0)
        }

        // MARK: - The cgroup freezer

        private func withCgroup(_ body: (_ path: String, _ directory: Int32) throws -> Void) throws {
            let path = try cgroupMount() + "/sccp-freeze"
            mkdir(path, 0o755)
            defer { rmdir(path) }
            let directory = try libc(open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC))
            defer { close(directory) }
            try body(path, directory)
        }

        private func enter(_ path: String, _ pid: pid_t) throws {
            let procs = try libc(open(path + "/cgroup.procs", O_WRONLY | O_CLOEXEC))
            defer { close(procs) }
            try write(procs, "\(pid)")
        }

        @Test func `a frozen process does not stop: SIGSTOP times out, and is taken back`() throws {
            try withCgroup { path, directory in
                try withProcess { pid, pidfd in
                    try enter(path, pid)
                    try check(cproc_cgroup_freeze(directory, 1, 1000))
                    #expect(try run(["cat", path + "/cgroup.events"]).output.contains("frozen 1"))
                    let before = cproc_monotonic_ns()
                    #expect(cproc_stop(pid, pidfd, 30) == -ETIMEDOUT)
                    #expect((30_000_000..<1_000_000_000).contains(cproc_monotonic_ns() - before))
                    try check(cproc_cgroup_freeze(directory, 0, 1000))
                    usleep(50000)
                    #expect(try state(of: pid) == "S")
                }
                #expect(try eventually { try run(["cat", path + "/cgroup.procs"]).output.isEmpty })
            }
        }

        @Test func `a change that does not happen in time is undone`() throws {
            try withCgroup { path, outer in
                mkdir(path + "/inner", 0o755)
                defer { rmdir(path + "/inner") }
                let inner = try libc(open(path + "/inner", O_RDONLY | O_DIRECTORY | O_CLOEXEC))
                defer { close(inner) }
                try check(cproc_cgroup_freeze(inner, 1, 1000))
                try check(cproc_cgroup_freeze(outer, 1, 1000))
                // What its parent keeps frozen cannot thaw.
                #expect(cproc_cgroup_freeze(inner, 0, 30) == -ETIMEDOUT)
                #expect(try run(["cat", path + "/inner/cgroup.freeze"]).output == "1\n")
                try check(cproc_cgroup_freeze(outer, 0, 1000))
                #expect(try run(["cat", path + "/inner/cgroup.events"]).output.contains("frozen 1"))
                try check(cproc_cgroup_freeze(inner, 0, 1000))
            }
        }

        // MARK: - The guard

        /// Running guards by the name they give themselves; one that has ended may wait for init to reap it.
        private func guards() throws -> [pid_t] {
            try names(in: "/proc").compactMap { pid_t($0) }.filter { pid in
                let fd = open("/proc/\(pid)/comm", O_RDONLY | O_CLOEXEC)
                if fd < 0 { return false }
                defer { close(fd) }
                return (try? read(fd)) == "sc-guard\n" && (try? state(of: pid)) != "Z"
            }
        }

        @Test func `when the holder is killed the guard continues the process`() throws {
            try withProcess { pid, pidfd in
                try check(cproc_stop(pid, pidfd, 1000))
                let others = try guards()
                let disarm = try check(cproc_stop_guard(pidfd))
                #expect(fcntl(disarm, F_GETFD) == FD_CLOEXEC)
                // The writing end moves to a process that can be killed without ending the test.
                let holder = try start(["sleep", "60"], passed: [disarm])
                close(disarm)
                #expect(try eventually { try guards().count == others.count + 1 })
                let guardian = try #require(try guards().first { !others.contains($0) })
                #expect(try eventually { try names(in: "/proc/\(guardian)/fd").sorted() == ["0", "1"] })
                #expect(getsid(guardian) != getsid(0))
                usleep(50000)
                #expect(try state(of: pid) == "T")
                end(holder)
                #expect(try eventually { try state(of: pid) == "S" })
                #expect(try eventually { try !guards().contains(guardian) })
            }
        }

        @Test func `a disarmed guard goes and leaves the process stopped`() throws {
            try withProcess { pid, pidfd in
                try check(cproc_stop(pid, pidfd, 1000))
                let others = try guards()
                let disarm = try check(cproc_stop_guard(pidfd))
                #expect(try eventually { try guards().count == others.count + 1 })
                try write(disarm, "d")
                close(disarm)
                #expect(try eventually { try guards() == others })
                #expect(try state(of: pid) == "T")
            }
        }

        @Test func `closing the pipe alone continues the process`() throws {
            try withProcess { pid, pidfd in
                try check(cproc_stop(pid, pidfd, 1000))
                close(try check(cproc_stop_guard(pidfd)))
                #expect(try eventually { try state(of: pid) == "S" })
            }
        }
    }
}

/// Where cgroup v2 is mounted.
func cgroupMount() throws -> String {
    let mounts = try run(["cat", "/proc/self/mounts"]).output.split(separator: "\n").map { $0.split(separator: " ") }
    return String(try #require(mounts.first { $0[2] == "cgroup2" }?[1]))
}

// Handles on other processes, and starting them.

import CProc
import Glibc
import Testing

extension KernelCalls {
    @Suite struct Processes {
        @Test(.enabled(if: isRoot)) func `pidfd_getfd brings another process's descriptor`() throws {
            let (reading, writing) = try makePipe()
            defer { close(reading) }
            let pid = try start(["sleep", "60"], output: writing)
            defer { end(pid) }
            close(writing)
            let pidfd = try check(cproc_pidfd_open(pid))
            defer { close(pidfd) }
            let copy = try check(cproc_pidfd_getfd(pidfd, 1))
            defer { close(copy) }
            #expect(cproc_same_file(getpid(), copy, pid, 1) == 0)
            #expect(cproc_same_file(getpid(), copy, pid, 0) == 1)
            #expect(cproc_pidfd_getfd(pidfd, 99) == -EBADF)
            try write(copy, "through")
            #expect(try read(reading) == "through")
        }

        @Test func `a process that has ended is ESRCH`() throws {
            let pid = try start(["true"])
            let pidfd = try check(cproc_pidfd_open(pid))
            defer { close(pidfd) }
            #expect(cproc_pidfd_send_signal(pidfd, 0) == 0)
            waitpid(pid, nil, 0)
            #expect(cproc_pidfd_send_signal(pidfd, 0) == -ESRCH)
            #expect(cproc_pidfd_open(pid) == -ESRCH)
            #expect(cproc_stop(pid, pidfd, 100) == -ESRCH)
        }

        @Test func `capabilities are those of proc status`() throws {
            let fd = try libc(open("/proc/thread-self/status", O_RDONLY | O_CLOEXEC))
            defer { close(fd) }
            let status = try read(fd)
            let line = try #require(status.split(separator: "\n").first { $0.hasPrefix("CapEff:") })
            let effective = try #require(UInt64(line.split(separator: "\t")[1], radix: 16))
            for capability in 0..<Int32(40) {
                #expect(cproc_has_capability(capability) == Int32(effective >> UInt64(capability) & 1), "capability \(capability)")
            }
            #expect(cproc_has_capability(1000) == -EINVAL)
        }

        @Test func `the clock is monotonic and in nanoseconds`() {
            let before = cproc_monotonic_ns()
            usleep(10000)
            let passed = cproc_monotonic_ns() - before
            #expect(passed >= 10_000_000 && passed < 2_000_000_000)
        }
    }

    @Suite struct Spawning {
        @Test func `descriptors arrive in their places however the numbers overlap`() throws {
            // 60 descriptors numbered from about 10 on become 3...62: most of them stand in another one's place.
            var readings: [Int32] = []
            defer { closeAll(readings) }
            for number in 0..<60 {
                let (reading, writing) = try makePipe()
                try write(writing, "\(number) ")
                close(writing)
                readings.append(reading)
            }
            let passed = Array(readings.reversed())
            let finished = try run(["cat"] + (0..<60).map { "/proc/self/fd/\(3 + $0)" }, passed: passed)
            #expect(finished.output == (0..<60).reversed().map { "\($0) " }.joined())
        }

        @Test func `a descriptor that is already in its place loses close-on-exec`() throws {
            let (reading, writing) = try makePipe()
            defer { close(reading) }
            try write(writing, "here")
            close(writing)
            // The last of `reading - 2` passed descriptors lands on `reading` itself.
            let passed = [Int32](repeating: reading, count: Int(reading) - 2)
            #expect(try run(["cat", "/proc/self/fd/\(reading)"], passed: passed).output == "here")
        }

        @Test func `nothing else is inherited, close-on-exec or not`() throws {
            let leaky = try libc(dup(open("/dev/null", O_RDONLY | O_CLOEXEC)))
            defer { close(leaky) }
            let finished = try run(["sh", "-c", "ls /proc/$$/fd"], passed: [leaky])
            #expect(finished.output.split(separator: "\n").prefix { $0 != "10" } == ["0", "1", "2", "3"])
        }

        @Test func `LISTEN_PID is the child's own pid and replaces an older one`() throws {
            let script = ["sh", "-c", "test $LISTEN_PID = $$ && echo $OTHER; env | grep -c LISTEN_PID="]
            let environment = ["PATH=/usr/bin:/bin", "LISTEN_PID=1", "OTHER=kept"]
            #expect(try run(script, environment: environment, listenPID: true).output == "kept\n1\n")
            #expect(try run(["sh", "-c", "echo $LISTEN_PID"], environment: environment).output == "1\n")
        }

        @Test func `exec's own error comes back and no child is left`() throws {
            let answer = withCStrings(["/nonexistent/program"]) { cproc_spawn($0, nil, -1, -1, -1, -1, nil, 0, 1) }
            #expect(answer == -ENOENT)
            let directory = withCStrings(["/tmp"]) { cproc_spawn($0, nil, -1, -1, -1, -1, nil, 0, 0) }
            #expect(directory == -EACCES)
            #expect(withCStrings(["true"]) { cproc_spawn($0, nil, -1, 9999, -1, -1, nil, 0, 0) } == -EBADF)
            let children = try names(in: "/proc/self/task").flatMap { thread in
                let fd = try libc(open("/proc/self/task/\(thread)/children", O_RDONLY | O_CLOEXEC))
                defer { close(fd) }
                return try read(fd).split(separator: " ").map(String.init)
            }
            #expect(try children.filter { try state(of: try #require(pid_t($0))) == "Z" } == [])
        }

        @Test func `the signal mask is empty and SIGPIPE has its default`() throws {
            var blocked = sigset_t()
            var before = sigset_t()
            sigemptyset(&blocked)
            sigaddset(&blocked, SIGUSR1)
            let action = signal(SIGPIPE, SIG_IGN)
            pthread_sigmask(SIG_BLOCK, &blocked, &before)
            defer {
                pthread_sigmask(SIG_SETMASK, &before, nil)
                signal(SIGPIPE, action)
            }
            let status = try run(["grep", "Sig[BI]", "/proc/self/status"]).output
            let masks = status.split(separator: "\n").map { UInt64($0.split(separator: "\t")[1], radix: 16)! }
            try #require(masks.count == 2)
            #expect(masks[0] == 0)
            #expect(masks[1] & (1 << UInt64(SIGPIPE - 1)) == 0)
        }

        @Test func `the caller's own signal mask is left as it was`() throws {
            func mask() -> [Bool] {
                var now = sigset_t()
                pthread_sigmask(SIG_SETMASK, nil, &now)
                return (1..<65).map { sigismember(&now, $0) == 1 }
            }
            var unblocked = sigset_t()
            var before = sigset_t()
            sigemptyset(&unblocked)
            sigaddset(&unblocked, SIGUSR1)
            pthread_sigmask(SIG_UNBLOCK, &unblocked, &before)
            defer { pthread_sigmask(SIG_SETMASK, &before, nil) }
            let expected = mask()
            #expect(!expected[Int(SIGUSR1) - 1])
            end(try start(["sleep", "60"]))
            #expect(withCStrings(["/nonexistent"]) { cproc_spawn($0, nil, -1, -1, -1, -1, nil, 0, 0) } == -ENOENT)
            #expect(mask() == expected)
        }

        @Test(.enabled(if: isRoot)) func `the child lives in the namespace, and so does its proc sys net`() throws {
            try withNetns { netns in
                var stat = cproc_stat()
                try check(cproc_fstat(netns, &stat))
                let setting = "/proc/sys/net/ipv4/ip_default_ttl"
                let script = "readlink /proc/self/ns/net; echo 77 > \(setting); cat \(setting)"
                #expect(try run(["sh", "-c", script], netns: netns).output == "net:[\(stat.inode)]\n77\n")
                #expect(try run(["cat", setting]).output != "77\n")
            }
        }

        @Test func `exec replaces the process, with descriptors and LISTEN_PID`() throws {
            // Swift hides fork(); the child here only calls into C.
            typealias Fork = @convention(c) () -> pid_t
            let fork = unsafeBitCast(try #require(dlsym(nil, "fork")), to: Fork.self)
            let (reading, writing) = try makePipe()
            defer { close(reading) }
            let (inputReading, inputWriting) = try makePipe()
            try write(inputWriting, "passed ")
            close(inputWriting)
            let passed = [inputReading, writing]
            let pid = withCStrings(["sh", "-c", "(cat <&3; test $LISTEN_PID = $$ && echo own) >&4"]) { arguments in
                let pid = fork()
                if pid == 0 {
                    passed.withUnsafeBufferPointer { _ = cproc_exec(arguments, nil, $0.baseAddress!, 2) }
                    _exit(99)
                }
                return pid
            }
            closeAll(passed)
            try libc(pid)
            #expect(try readToEnd(reading) == "passed own\n")
            var status: Int32 = -1
            waitpid(pid, &status, 0)
            #expect(status == 0)
        }
    }
}

// libsc as a stranger gets it: installed into a folder, found by pkg-config, used from C++, with no other symbols and no other libraries.

import Glibc
import Support
import Testing

@Suite(.serialized, .enabled(if: geteuid() == 0, "needs root: it makes network namespaces"))
struct LibSCInstallTests {
    private static let repository = #filePath.split(separator: "/").dropLast(3).map { "/" + $0 }.joined()

    /// A server of one connection, as C++ programmers would write it.
    private static let server = """
        #include <cstring>
        #include <iostream>
        #include <sc.h>
        #include <netinet/in.h>
        #include <sys/socket.h>
        #include <unistd.h>

        int main() {
            sc_callbacks_t callbacks = {};
            callbacks.size = sizeof callbacks;
            callbacks.park = [](sc_continuation_t *c, void *) { sc_parked(c); };
            sc_t *sc = nullptr;
            if (sc_open("nobody", 1, &callbacks, nullptr, SC_SURVIVE, &sc) != 0 || sc_abi() != SC_ABI) return 1;
            sockaddr_in address = {};
            address.sin_family = AF_INET;
            address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
            socklen_t length = sizeof address;
            int listener = socket(AF_INET, SOCK_STREAM, 0), client = socket(AF_INET, SOCK_STREAM, 0);
            if (bind(listener, reinterpret_cast<sockaddr *>(&address), length) || listen(listener, 1)) return 2;
            if (getsockname(listener, reinterpret_cast<sockaddr *>(&address), &length)) return 2;
            if (connect(client, reinterpret_cast<sockaddr *>(&address), length)) return 2;
            int fd = accept(listener, nullptr, nullptr);
            sc_continuation_t *c = nullptr;
            char bytes[5] = {};
            if (sc_create(sc, bytes, &c) || sc_associate(c, fd, "client") || sc_log(c, fd, 0) || sc_export(c, "state", 5)) return 3;
            if (sc_send(c, fd, "hello", 5, 0) != 5 || read(client, bytes, 5) != 5 || std::memcmp(bytes, "hello", 5)) return 4;
            if (sc_dispatch(sc) < 0) return 5;
            sc_end(c);
            sc_close(sc);
            std::cout << "served\\n";
        }
        """

    @Test func `an installed library serves a program in C++`() throws {
        let lab = try Lab()
        defer { lab.down() }
        let root = lab.folder + "/root", folder = lab.folder
        try lab.check(in: nil, ["make", "-C", Self.repository + "/Sources/SC", "install", "DESTDIR=\(root)", "PREFIX=/usr"], timeout: .seconds(60))
        #expect(access(root + "/usr/share/man/man3/sc.3", R_OK) == 0)

        try writeFile(folder + "/server.cc", Self.server)
        let environment = ["PKG_CONFIG_PATH": root + "/usr/lib/pkgconfig", "PKG_CONFIG_SYSROOT_DIR": root]
        let flags = try lab.check(in: nil, ["pkg-config", "--cflags", "--libs", "sc"], environment: environment).split(whereSeparator: \.isWhitespace)
        let compile = ["c++", "-std=c++11", "-pedantic", "-Wall", "-Wextra", "-Werror", "-o", folder + "/server", folder + "/server.cc"]
        try lab.check(in: nil, compile + flags.map(String.init), timeout: .seconds(60))
        let output = try lab.check(in: .a, [folder + "/server"], environment: ["LD_LIBRARY_PATH": root + "/usr/lib", "SC_RUN_DIR": folder])
        #expect(output == "served\n")
    }

    @Test func `it has the symbols of its header, its name, and libc`() throws {
        let lab = try Lab()
        defer { lab.down() }
        let root = lab.folder + "/root"
        try lab.check(in: nil, ["make", "-C", Self.repository + "/Sources/SC", "install", "DESTDIR=\(root)", "PREFIX=/usr"], timeout: .seconds(60))
        let library = root + "/usr/lib/libsc.so.0"
        let exported = try lab.check(in: nil, ["nm", "-D", "--defined-only", library]).split(separator: "\n").compactMap {
            $0.split(separator: " ").last
        }
        let header = try lab.check(in: nil, ["cat", root + "/usr/include/sc.h"])
        let declared = header.matches(of: /SC_API [^(\n]*?(sc_[a-z_]+)\(/).map(\.1)
        #expect(declared.count > 30)
        #expect(Set(exported) == Set(declared))
        let dynamic = try lab.check(in: nil, ["readelf", "-d", library]).split(separator: "\n")
        #expect(dynamic.contains { $0.contains("SONAME") && $0.contains("[libsc.so.0]") })
        #expect(dynamic.filter { $0.contains("NEEDED") }.allSatisfy { $0.contains("[libc.so.6]") })
    }
}

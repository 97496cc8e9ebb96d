// swift-tools-version: 6.2
import PackageDescription

/// Warnings are errors everywhere; `SCImage`, which parses what strangers send, is also held to strict memory safety.
let strict: [SwiftSetting] = [.swiftLanguageMode(.v6), .treatAllWarnings(as: .error)]
let strictC: [CSetting] = [
    .define("_GNU_SOURCE"), .enableWarning("all"), .enableWarning("extra"), .treatAllWarnings(as: .error),
]

var targets: [Target] = [
    .systemLibrary(
        name: "CProtobufC", pkgConfig: "libprotobuf-c", providers: [.apt(["libprotobuf-c-dev"])]),
    .target(
        name: "CSCImage", dependencies: ["CProtobufC"], cSettings: strictC,
        linkerSettings: [.linkedLibrary("crypto")]),
    .target(
        name: "SCImage", dependencies: ["CSCImage"],
        swiftSettings: strict + [.strictMemorySafety(), .enableUpcomingFeature("InternalImportsByDefault")]),
    // libnet has no .pc file in Debian, so it is linked by name and used from C only.
    .target(name: "CProc", cSettings: strictC, linkerSettings: [.linkedLibrary("net"), .linkedLibrary("seccomp")]),
    .target(name: "CTLS", cSettings: strictC, linkerSettings: [.linkedLibrary("ssl"), .linkedLibrary("crypto")]),
    // Only the headers of libcurl are needed here: the library is loaded at the first use of a fence.
    .target(name: "CHTTP", cSettings: strictC),
    // The same for libzstd: archives load it when they compress.
    .target(name: "CZstd", cSettings: strictC),
    .target(name: "CSeal", cSettings: strictC, linkerSettings: [.linkedLibrary("crypto")]),
    // libsc itself is built by Sources/SC/Makefile; this target is for Swift servers and the tests, and its sc_wire.h for the agent.
    .target(name: "SC", exclude: ["Makefile", "sc.3", "sc.pc.in"], cSettings: strictC),
    .target(name: "SCServer", dependencies: ["SC"], swiftSettings: strict),
    .target(name: "SCEngine", dependencies: ["CProc", "CHTTP", "SCImage"], swiftSettings: strict),
    .target(name: "SCArchive", dependencies: ["SCEngine", "SCImage", "CZstd", "CSeal"], swiftSettings: strict),
    .target(name: "SCAgent", dependencies: ["SCArchive", "SCEngine", "SCImage", "CProc", "CTLS", "SC"], swiftSettings: strict),
    .executableTarget(
        name: "sc-checkpoint",
        dependencies: ["SCAgent", "SCArchive", "SCEngine", "SCImage", "CProc", .product(name: "ArgumentParser", package: "swift-argument-parser")],
        swiftSettings: strict),

    .target(name: "CFloor", dependencies: ["CProc"], path: "Benchmarks/CFloor", cSettings: strictC),
    .executableTarget(
        name: "sc-bench", dependencies: ["SCArchive", "SCEngine", "SCImage", "CFloor", "Support"], path: "Benchmarks/sc-bench", swiftSettings: strict),

    .target(name: "CSupport", path: "Tests/CSupport", cSettings: strictC),
    .target(name: "Support", dependencies: ["CSupport"], path: "Tests/Support", swiftSettings: strict),
    .executableTarget(
        name: "sc-stream", dependencies: ["CSupport"], path: "Tests/Programs/sc-stream", cSettings: strictC),
    .executableTarget(
        name: "sc-hold", dependencies: ["CSupport"], path: "Tests/Programs/sc-hold", cSettings: strictC),
    .executableTarget(name: "sc-logged", dependencies: ["SC"], path: "Tests/Programs/sc-logged", cSettings: strictC),
    .executableTarget(name: "sc-echo", dependencies: ["SC"], path: "examples/echo", cSettings: strictC),
    .executableTarget(name: "sc-echo-swift", dependencies: ["SCServer"], path: "examples/echo-swift", swiftSettings: strict),
    .executableTarget(name: "sc-fileserver", dependencies: ["SC"], path: "examples/fileserver", cSettings: strictC),
    .executableTarget(name: "sc-lab", dependencies: ["Support"], swiftSettings: strict),
    .testTarget(name: "SupportTests", dependencies: ["Support"], swiftSettings: strict),
    .testTarget(name: "CProcTests", dependencies: ["CProc", "Support"], swiftSettings: strict),
    .testTarget(name: "SCImageTests", dependencies: ["SCImage"], exclude: ["Golden"], swiftSettings: strict),
    .testTarget(name: "SCEngineTests", dependencies: ["SCEngine", "Support"], exclude: ["group.py"], swiftSettings: strict),
    .testTarget(name: "SCArchiveTests", dependencies: ["SCArchive", "SCEngine", "SCImage", "Support", "sc-checkpoint"], swiftSettings: strict),
    .testTarget(
        name: "SCAgentTests", dependencies: ["SCAgent", "SCEngine", "SCImage", "CProc", "Support", "sc-checkpoint"], swiftSettings: strict),
    .testTarget(
        name: "LibSCTests", dependencies: ["SC", "SCServer", "SCAgent", "SCEngine", "CProc", "Support", "sc-checkpoint", "sc-logged"],
        swiftSettings: strict),
    .testTarget(
        name: "EndToEndTests",
        dependencies: ["SCImage", "SCEngine", "Support", "sc-checkpoint", "sc-echo", "sc-echo-swift", "sc-fileserver", "sc-logged"],
        exclude: [
            "acceptor.py", "closing_client.py", "closing_server.py", "cutter.py", "drain_acceptor.py", "files_client.py", "http_client.py",
            "http_crowd.py", "http_random.py", "lines.py", "manager.py", "paced.py",
        ],
        swiftSettings: strict),
]

// libFuzzer brings its own main(), so a normal build must not link this one. See `make fuzz`.
if Context.environment["SC_FUZZ"] != nil {
    targets.append(
        .executableTarget(
            name: "fuzz-image", dependencies: ["SCImage"], swiftSettings: strict + [.unsafeFlags(["-parse-as-library"])]))
}

let package = Package(
    name: "sc-checkpoint",
    products: [.executable(name: "sc-checkpoint", targets: ["sc-checkpoint"]), .library(name: "SCServer", targets: ["SCServer"])],
    dependencies: [.package(url: "https://github.com/apple/swift-argument-parser", from: "1.8.2")],
    targets: targets,
    cLanguageStandard: .gnu11
)

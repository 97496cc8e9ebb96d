// Key, certificate and peers on disk.

import Testing

@Test func placeholder() {}

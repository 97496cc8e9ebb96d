// mod_sc as an administrator installs it: into the system's own folders, which an overlay keeps as they are.

import Glibc
import Support
import Testing

extension ApacheTests {
    private static let repository = #filePath.split(separator: "/").dropLast(3).map { "/" + $0 }.joined()

    @Test func `a package gets its files below DESTDIR, and a server that is named its folder loads them from there`() throws {
        let lab = try Lab()
        defer { lab.down() }
        let script = """
            set -e
            umask 077
            image=\(lab.folder)/image
            make -s -C \(Self.repository) install-apache DESTDIR=$image
            (cd $image && find . -type f -printf '%m %P\\n' | sort -k 2)
            [ "$(cat $image/etc/apache2/mods-available/sc.load)" = "LoadModule sc_module /usr/lib/apache2/modules/mod_sc.so" ]
            echo "SCRequestMax 2000000" >>$image/etc/apache2/mods-available/sc.conf
            make -s -C \(Self.repository) install-apache DESTDIR=$image
            grep -q "SCRequestMax 2000000" $image/etc/apache2/mods-available/sc.conf
            own=\(lab.folder)/own
            make -s -C \(Self.repository)/integrations/apache install MODULES=$own/modules CONFIGURATION=$own/mods-available
            for module in mpm_event authz_core; do echo "LoadModule ${module}_module /usr/lib/apache2/modules/mod_$module.so"; done >$own/httpd.conf
            echo "Include $own/mods-available/*.load\nInclude $own/mods-available/*.conf\nListen 127.0.0.1:80\nServerName lab" >>$own/httpd.conf
            echo "ErrorLog $own/error.log" >>$own/httpd.conf
            apache2 -f $own/httpd.conf -t -D DUMP_MODULES
            """
        let output = try lab.run(in: .a, ["sh", "-c", script], timeout: .seconds(60))
        #expect(output.status == 0 && output.stdout.contains("sc_module (shared)"), "\(output.stdout)\(output.stderr)")
        let files = ["etc/apache2/mods-available/sc.conf", "etc/apache2/mods-available/sc.load", "usr/lib/apache2/modules/mod_sc.so"]
        #expect(output.stdout.hasPrefix(files.map { "644 \($0)\n" }.joined()), "\(output.stdout)")
    }

    @Test func `the module is installed, enabled, changed by its administrator, and removed`() throws {
        let lab = try Lab()
        defer { lab.down() }
        let script = """
            set -e
            mkdir \(lab.folder)/layers
            mount -t tmpfs none \(lab.folder)/layers
            overlay() {
                mkdir -p \(lab.folder)/layers/$1/upper \(lab.folder)/layers/$1/work
                mount -t overlay none -o lowerdir=$2,upperdir=\(lab.folder)/layers/$1/upper,workdir=\(lab.folder)/layers/$1/work $2
            }
            overlay modules /usr/lib/apache2/modules
            overlay configuration /etc/apache2
            overlay variable /var
            mkdir -p /run/lock && mount -t tmpfs none /run/lock
            mkdir -p /run/apache2 && mount -t tmpfs none /run/apache2
            make -s -C \(Self.repository) install-apache
            [ "$(stat -c %a /usr/lib/apache2/modules/mod_sc.so)" = 644 ]
            a2enmod -q sc
            echo "SCRequestMax 2000000" >>/etc/apache2/mods-available/sc.conf
            make -s -C \(Self.repository) install-apache
            grep -q "SCRequestMax 2000000" /etc/apache2/mods-enabled/sc.conf
            echo "ServerName lab" >/etc/apache2/conf-enabled/name.conf
            echo served >/var/www/html/index.html
            apache2ctl configtest
            apache2ctl start
            for turn in $(seq 50); do [ -s /run/apache2/apache2.pid ] && break; sleep 0.1; done
            [ "$(curl -sS http://127.0.0.1/)" = served ]
            cat /proc/$(cat /run/apache2/apache2.pid)/task/*/children | xargs -n 1 ps -o comm= -p | grep apache2-sc
            apache2ctl stop
            a2dismod -q sc
            rm /usr/lib/apache2/modules/mod_sc.so
            apache2ctl configtest
            """
        let output = try lab.run(in: .a, ["unshare", "-m", "sh", "-c", script], timeout: .seconds(60))
        #expect(output.status == 0 && output.stdout.contains("apache2-sc"), "\(output.stdout)\(output.stderr)")
        #expect(access("/etc/apache2/mods-enabled/sc.load", F_OK) != 0)
    }
}

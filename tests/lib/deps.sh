# What the suites need beside Rust, installed into tests/.deps or, for a missing program, by apt.
# Sourced by tests/run. Every function returns non-zero, with a reason, when the thing cannot be had.

# need_rust_component NAME…: cargo's own tools, by rustup where they are missing.
need_rust_component() {
    local component
    for component in "$@"; do
        case $component in
            rustfmt) cargo fmt --version >/dev/null 2>&1 && continue ;;
            clippy) cargo clippy --version >/dev/null 2>&1 && continue ;;
        esac
        rustup component add "$component" || { echo "FAIL missing: $component"; return 1; }
    done
}

# as_root COMMAND…: directly as root, else by sudo.
as_root() {
    if [ "$(id -u)" -eq 0 ]; then "$@"; else sudo -n "$@"; fi
}

# need_program PROGRAM PACKAGE…: the program is there, or Debian's packages bring it.
need_program() {
    local program=$1
    shift
    command -v "$program" >/dev/null && return 0
    [ -n "${APT_UPDATED:-}" ] || as_root apt-get update -qq || { echo "FAIL missing: $program, and apt-get update failed"; return 1; }
    APT_UPDATED=1
    as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "$@" >/dev/null
    command -v "$program" >/dev/null || { echo "FAIL missing: $program (apt package $*)"; return 1; }
}

# changed STAMP FILE…: true when one of the files is newer than what was last built from them.
changed() {
    local stamp=$DEPS/stamps/$1
    shift
    mkdir -p "$DEPS/stamps"
    [ "$(cat "$@" | sha256sum)" != "$(cat "$stamp" 2>/dev/null)" ]
}

# built STAMP FILE…: remembers that the files have been built.
built() {
    local stamp=$DEPS/stamps/$1
    shift
    cat "$@" | sha256sum >"$stamp"
}

# Apache Kafka's broker and clients as jars, and our Java client compiled against them.
deps_java() {
    local source=tests/compat/java
    need_program javac default-jdk-headless && need_program mvn maven || return 1
    changed java $source/pom.xml $source/Client.java || return 0
    rm -rf "$DEPS/java/jars" # What another version has left would be on the class path too.
    mvn -q -B -f $source/pom.xml dependency:copy-dependencies "-DoutputDirectory=$DEPS/java/jars" &&
        mkdir -p "$DEPS/java/classes" &&
        javac -cp "$DEPS/java/jars/*" -d "$DEPS/java/classes" $source/Client.java &&
        built java $source/pom.xml $source/Client.java
}

# java_jars NAME POM: the jars that a pom lists, as tests/.deps/java/NAME.
java_jars() {
    local name=$1 source=$2
    need_program java default-jdk-headless && need_program mvn maven || return 1
    changed "java-$name" "$source" || return 0
    rm -rf "$DEPS/java/$name"
    mvn -q -B -f "$source" dependency:copy-dependencies "-DoutputDirectory=$DEPS/java/$name" && built "java-$name" "$source"
}

# Apache Kafka's command-line tools.
deps_java_tools() {
    java_jars tools tests/compat/java/tools/pom.xml
}

# Apache Kafka Connect.
deps_java_connect() {
    java_jars connect tests/compat/java/connect/pom.xml
}

# python_packages NAME LIST: an environment of its own for the packages in LIST, as tests/.deps/NAME.
python_packages() {
    local name=$1 list=$2
    need_program python3 python3 || return 1
    changed "$name" "$list" || return 0
    python3 -m venv "$DEPS/$name" 2>/dev/null ||
        { as_root apt-get install -y -qq python3-venv >/dev/null && python3 -m venv "$DEPS/$name"; } || return 1
    "$DEPS/$name/bin/python" -m pip -q --disable-pip-version-check install -r "$list" && built "$name" "$list"
}

deps_python() {
    python_packages python tests/compat/kafka-python/requirements.txt
}

# A browser with a font.
deps_chromium() {
    need_program chromium chromium fonts-dejavu-core
}

# A browser, Prometheus' parser, and a terminal's screen.
deps_admin() {
    deps_chromium && python_packages admin tests/admin/requirements.txt
}

# A browser, and a reader of HdrHistogram logs.
deps_bench() {
    deps_chromium && python_packages bench tests/bench/requirements.txt
}

deps_kafkajs() {
    need_program node nodejs && need_program npm npm || return 1
    mkdir -p "$DEPS/kafkajs" && cp tests/compat/kafkajs/{package.json,client.js} "$DEPS/kafkajs/" || return 1
    changed kafkajs tests/compat/kafkajs/package.json || return 0
    (cd "$DEPS/kafkajs" && npm install --no-audit --no-fund --no-package-lock) && built kafkajs tests/compat/kafkajs/package.json
}

deps_platformatic() {
    local source=tests/compat/platformatic
    need_program node nodejs && need_program npm npm || return 1
    mkdir -p "$DEPS/platformatic" && cp $source/{package.json,client.mjs} "$DEPS/platformatic/" || return 1
    changed platformatic $source/package.json || return 0
    (cd "$DEPS/platformatic" && npm install --no-audit --no-fund --no-package-lock) && built platformatic $source/package.json
}

deps_aiokafka() {
    python_packages aiokafka tests/compat/aiokafka/requirements.txt
}

deps_sarama() {
    need_program go golang || return 1
    (cd tests/compat/sarama && go build -o "$DEPS/sarama" .)
}

deps_franz_go() {
    need_program go golang || return 1
    (cd tests/compat/franz-go && go build -o "$DEPS/franz-go" .)
}

# librdkafka is C: the crate's build needs make, a compiler for C and C++, and is by far the longest.
deps_rdkafka() {
    need_program make make && need_program g++ g++ || return 1
    CARGO_TARGET_DIR=$DEPS/rdkafka cargo build --release --locked --manifest-path tests/compat/rdkafka/Cargo.toml
}

deps_kcat() {
    need_program kcat kcat
}

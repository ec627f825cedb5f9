use super::*;

fn fixture(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/fixtures/kafka-4.4")
        .join(path)
}

/// Output and number of problems.
fn dumped(paths: &[PathBuf], records: bool) -> (String, usize) {
    let mut out = Vec::new();
    let args = DumpArgs {
        paths: paths.to_vec(),
        records,
        holes: false,
    };
    let problems = dump(&args, &mut out).unwrap();
    (String::from_utf8(out).unwrap(), problems)
}

/// A folder with a copy of a fixture partition's files.
fn copy_of(partition: &str) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    for entry in fs::read_dir(fixture(partition)).unwrap() {
        let entry = entry.unwrap();
        fs::copy(entry.path(), folder.path().join(entry.file_name())).unwrap();
    }
    folder
}

const LOG: &str = "00000000000000000000.log";

#[test]
fn apache_kafkas_data_folder_has_no_problems() {
    let (text, problems) = dumped(&[fixture("")], true);
    assert_eq!(problems, 0, "{text}");
    for part in [
        "a clean stop, broker epoch 12",
        "node 0  cluster MkU3OEVBNTcwNTJENDM2Qg",
        "key \"key4\"  value \"valuevaluevalue",
        "header h = \"x\"",
        "key null  value",
        "  zstd  CreateTime",
        "transaction open since offset 18",
        "aborted: producer 6  offsets 3 to 5  last stable offset 6",
        "FeatureLevelRecord",
        "TransactionLogValue",
        "leader change",
        "  offset 5  position 4860",
        "  timestamp 1700000005000  offset 5",
        "epoch 0 from offset 0",
    ] {
        assert!(text.contains(part), "{part} in\n{text}");
    }
    assert!(text.ends_with("No problems.\n"));
}

#[test]
fn allocated_zeroes_are_no_problem_but_data_behind_them_is() {
    let folder = copy_of("plain-0");
    let log = folder.path().join(LOG);
    let mut bytes = fs::read(&log).unwrap();
    let data = bytes.len();
    bytes.resize(data + 300_000, 0);
    fs::write(&log, &bytes).unwrap();
    let (text, problems) = dumped(std::slice::from_ref(&log), false);
    assert_eq!(problems, 0, "{text}");
    assert!(text.contains("300000 bytes of zeroes, allocated ahead"));
    bytes[data + 200_000] = 1;
    fs::write(&log, &bytes).unwrap();
    assert_eq!(dumped(&[log], false).1, 1);
}

#[test]
fn damage_is_found() {
    let folder = copy_of("plain-0");
    let log = folder.path().join(LOG);
    let good = fs::read(&log).unwrap();
    let problems = |bytes: &[u8]| {
        fs::write(&log, bytes).unwrap();
        dumped(std::slice::from_ref(&log), true).1
    };
    let mut flipped = good.clone();
    flipped[200] ^= 1;
    assert_eq!(problems(&flipped), 1, "CRC");
    assert_eq!(problems(&good[..good.len() - 1]), 1, "cut short");
    assert_eq!(
        problems(&good[..good.len() - 950]),
        1,
        "cut within a header"
    );
    let size = 12 + i32::from_be_bytes(good[8..12].try_into().unwrap()) as usize;
    assert_eq!(problems(&good[size..]), 1, "the first batch is missing");
    let mut again = good[..size].to_vec();
    again.extend_from_slice(&good);
    assert_eq!(problems(&again), 1, "an offset comes twice");
}

#[test]
fn indexes_are_held_against_their_segment() {
    for (name, place) in [
        ("00000000000000000000.index", 7),
        ("00000000000000000000.index", 3),
        ("00000000000000000000.timeindex", 7),
    ] {
        let folder = copy_of("plain-0");
        let path = folder.path().join(name);
        let mut bytes = fs::read(&path).unwrap();
        bytes[place] ^= 1;
        fs::write(&path, bytes).unwrap();
        let (text, problems) = dumped(&[folder.path().to_owned()], false);
        assert_eq!(problems, 1, "{text}");
        assert_eq!(dumped(&[path], false).1, 1, "alone");
    }
}

#[test]
fn segments_follow_each_other() {
    let folder = copy_of("plain-0");
    let batch = fs::read(folder.path().join(LOG)).unwrap();
    let size = 12 + i32::from_be_bytes(batch[8..12].try_into().unwrap()) as usize;
    let mut next = batch[..size].to_vec();
    for (offset, problems) in [(12i64, 0), (13, 1), (11, 1)] {
        next[..8].copy_from_slice(&offset.to_be_bytes());
        let path = folder.path().join(format!("{offset:020}.log"));
        fs::write(&path, &next).unwrap();
        let (text, found) = dumped(&[folder.path().to_owned()], false);
        assert_eq!(found, problems, "{text}");
        fs::remove_file(path).unwrap();
    }
}

#[test]
fn the_command_line_wants_a_path() {
    #[derive(clap::Parser)]
    struct Dump {
        #[command(flatten)]
        args: DumpArgs,
    }
    use clap::Parser;
    assert!(Dump::try_parse_from(["dump"]).is_err());
    let args = Dump::try_parse_from(["dump", "--records", "a", "b"])
        .unwrap()
        .args;
    assert!(args.records && !args.holes && args.paths.len() == 2);
}

use std::{fs, path::Path, thread};

use nullspend_core::{
    clock::ManualClock,
    id::{Ids as _, RandomIds},
};
use nullspend_proto::internal::{
    AttemptStub, Closed, Denied, Opened, Settled, SpoolRecord, spool_record::Kind as RecordKind,
};
use tempfile::TempDir;

use super::{Fsync, Replay, Spool, SpoolConfig, SpoolError, recover};

fn config() -> SpoolConfig {
    SpoolConfig { segment_bytes: 1 << 20, max_bytes: 1 << 30, fsync: Fsync::Never }
}

fn open(dir: &Path, config: SpoolConfig) -> (std::sync::Arc<Spool>, Replay) {
    Spool::open(dir, config, &RandomIds).unwrap()
}

fn stub(n: u64) -> AttemptStub {
    AttemptStub {
        attempt_id: uuid::Uuid::from_u128(u128::from(n)).to_string(),
        model: format!("model-{n}"),
        held_nanos: 1000 + i64::try_from(n).unwrap(),
        started_at_ms: 5,
        ..AttemptStub::default()
    }
}

fn opened(n: u64) -> SpoolRecord {
    SpoolRecord { kind: Some(RecordKind::Opened(Opened { stub: Some(stub(n)) })) }
}

fn closed(n: u64) -> SpoolRecord {
    let closed = Closed { stub: Some(stub(n)), revision: 1, ended_at_ms: 50, ..Closed::default() };
    SpoolRecord { kind: Some(RecordKind::Closed(closed)) }
}

fn settled(n: u64) -> SpoolRecord {
    SpoolRecord { kind: Some(RecordKind::Settled(Settled { attempt_id: stub(n).attempt_id })) }
}

fn denied(n: u64) -> SpoolRecord {
    let denied = Denied { attempt_id: stub(n).attempt_id, at_ms: 60, ..Denied::default() };
    SpoolRecord { kind: Some(RecordKind::Denied(denied)) }
}

/// Numbers of the attempts a batch reports, in order.
fn reported(spool: &Spool, from: u64) -> Vec<(u64, String)> {
    let batch = spool.read_from(from, usize::MAX, usize::MAX).unwrap();
    batch.records.iter().map(|r| (r.seq, attempt_of(&r.read().unwrap()))).collect()
}

fn attempt_of(record: &SpoolRecord) -> String {
    match record.kind.clone().unwrap() {
        RecordKind::Closed(closed) => closed.stub.unwrap().attempt_id,
        RecordKind::Denied(denied) => denied.attempt_id,
        RecordKind::Opened(opened) => opened.stub.unwrap().attempt_id,
        RecordKind::Settled(settled) => settled.attempt_id,
    }
}

fn ids(stubs: &[AttemptStub]) -> Vec<&str> {
    stubs.iter().map(|stub| stub.attempt_id.as_str()).collect()
}

fn segments(dir: &Path) -> Vec<std::path::PathBuf> {
    let mut found: Vec<_> = fs::read_dir(dir)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|ext| ext == "seg"))
        .collect();
    found.sort();
    found
}

/// The event of a hold that was swept here says nothing of what its owner, perhaps this data plane, still has to tell.
#[test]
fn what_was_swept_leaves_the_attempt_as_it_is() {
    let dir = TempDir::new().unwrap();
    let swept = |n| {
        let closed = Closed { stub: Some(stub(n)), swept: true, ..Closed::default() };
        SpoolRecord { kind: Some(RecordKind::Closed(closed)) }
    };
    {
        let (spool, _) = open(dir.path(), config());
        for record in [opened(1), opened(2), closed(2), swept(1), swept(2), swept(3)] {
            spool.append(&record).unwrap();
        }
        assert_eq!((spool.stats().open_attempts, spool.stats().unsettled, spool.depth()), (1, 1, 4));
        assert_eq!(spool.unsettled().unwrap().len(), 2);
    }
    let (spool, replay) = open(dir.path(), config());
    assert_eq!(ids(&replay.unclosed), [stub(1).attempt_id]);
    let unsettled: Vec<_> = replay.unsettled.iter().filter_map(|closed| closed.stub.clone()).collect();
    assert_eq!(ids(&unsettled), [stub(2).attempt_id]);
    assert_eq!(reported(&spool, 0).len(), 4, "all are reported");
}

#[test]
fn reopening_tells_what_was_in_flight_what_was_unsettled_and_what_was_unreported() {
    let dir = TempDir::new().unwrap();
    let (spool, replay) = open(dir.path(), config());
    assert_eq!((replay.next_seq, replay.unclosed.len()), (1, 0));
    let id = spool.dataplane_id().to_owned();
    for record in [opened(1), opened(2), opened(3), closed(1), settled(1), denied(9), closed(2)] {
        spool.append(&record).unwrap();
    }
    assert_eq!(spool.stats().depth, 3);
    assert_eq!(spool.oldest_age_ms(80), 30);
    assert_eq!(spool.stats().open_attempts, 1);
    spool.ack(4);
    drop(spool);

    let (spool, replay) = open(dir.path(), config());
    assert_eq!(spool.dataplane_id(), id);
    assert_eq!(replay.next_seq, 8);
    assert_eq!(ids(&replay.unclosed), [stub(3).attempt_id]);
    let unsettled: Vec<_> = replay.unsettled.iter().map(|c| c.stub.clone().unwrap().attempt_id).collect();
    assert_eq!(unsettled, [stub(2).attempt_id]);
    assert_eq!(spool.depth(), 2);
    assert_eq!(reported(&spool, 5), [(6, stub(9).attempt_id), (7, stub(2).attempt_id)]);
}

#[test]
fn recovery_closes_what_was_in_flight_once() {
    let dir = TempDir::new().unwrap();
    let (spool, _) = open(dir.path(), config());
    spool.append(&opened(1)).unwrap();
    drop(spool);

    let (spool, replay) = open(dir.path(), config());
    let lapsed = recover(&replay, &spool, &ManualClock::at(700)).unwrap();
    assert_eq!(lapsed.len(), 1);
    let event = &lapsed[0];
    assert_eq!((event.revision, event.ended_at_ms, event.cost_nanos), (1, 700, 1001));
    assert_eq!((event.measurement.as_str(), event.ending.as_str()), ("lapsed", "crashed"));
    drop(spool);

    let (spool, replay) = open(dir.path(), config());
    assert!(replay.unclosed.is_empty());
    assert_eq!(reported(&spool, 1), [(2, stub(1).attempt_id)]);
}

/// In memory where the system has such a place: this test forces files to the disk some thousand times.
fn quick_dir() -> TempDir {
    let memory = Path::new("/dev/shm");
    if memory.is_dir() { TempDir::new_in(memory).unwrap() } else { TempDir::new().unwrap() }
}

/// A process may die between any two bytes.
#[test]
fn a_death_at_any_byte_loses_no_record_that_was_written_whole() {
    let dir = quick_dir();
    let (spool, _) = open(dir.path(), config());
    let mut ends = vec![(segments(dir.path())[0].metadata().unwrap().len(), opened(0))];
    for n in 1..=2 {
        for record in [opened(n), closed(n), settled(n)] {
            spool.append(&record).unwrap();
            ends.push((segments(dir.path())[0].metadata().unwrap().len(), record));
        }
    }
    drop(spool);
    let path = segments(dir.path())[0].clone();
    let whole = fs::read(&path).unwrap();

    for cut in 0..=whole.len() {
        let copy = quick_dir();
        fs::write(copy.path().join(path.file_name().unwrap()), &whole[..cut]).unwrap();
        let (spool, replay) = open(copy.path(), config());
        let written: Vec<_> = ends[1..].iter().take_while(|(end, _)| *end <= cut as u64).collect();
        assert_eq!(replay.next_seq, written.len() as u64 + 1, "cut at {cut}");
        assert_eq!(replay.damaged_places, 0, "cut at {cut}");
        let closed_written: Vec<_> = written
            .iter()
            .filter(|(_, record)| matches!(record.kind, Some(RecordKind::Closed(_))))
            .map(|(_, record)| attempt_of(record))
            .collect();
        let told: Vec<_> = reported(&spool, 1).into_iter().map(|(_, id)| id).collect();
        assert_eq!(told, closed_written, "cut at {cut}");
        recover(&replay, &spool, &ManualClock::at(9)).unwrap();
        let opened_written =
            written.iter().filter(|(_, r)| matches!(r.kind, Some(RecordKind::Opened(_)))).count();
        assert_eq!(
            reported(&spool, 1).len(),
            opened_written,
            "every forwarded attempt has its end, cut at {cut}"
        );
    }
}

#[test]
fn damage_in_the_middle_is_counted_and_kept_aside_and_the_rest_goes_on() {
    let dir = TempDir::new().unwrap();
    let (spool, _) = open(dir.path(), config());
    for n in 1..=3 {
        spool.append(&closed(n)).unwrap();
    }
    drop(spool);
    let path = segments(dir.path())[0].clone();
    let mut bytes = fs::read(&path).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 0xff;
    fs::write(&path, &bytes).unwrap();

    let (spool, replay) = open(dir.path(), config());
    assert_eq!((replay.damaged_places, replay.torn_bytes, replay.next_seq), (1, 0, 4));
    assert_eq!(reported(&spool, 1), [(1, stub(1).attempt_id), (3, stub(3).attempt_id)]);
    assert_eq!(fs::read(path.with_extension("corrupt")).unwrap(), bytes);
    drop(spool);
    let (_, replay) = open(dir.path(), config());
    assert_eq!(replay.damaged_places, 0);
}

#[test]
fn a_segment_taken_away_is_noticed() {
    let dir = TempDir::new().unwrap();
    let (spool, _) = open(dir.path(), SpoolConfig { segment_bytes: 1, ..config() });
    for n in 1..=3 {
        spool.append(&closed(n)).unwrap();
    }
    drop(spool);
    fs::remove_file(&segments(dir.path())[1]).unwrap();
    assert_eq!(open(dir.path(), config()).1.missing_seqs, 1);
}

#[test]
fn a_segment_that_could_not_be_begun_is_begun_anew() {
    let dir = TempDir::new().unwrap();
    let (spool, _) = open(dir.path(), SpoolConfig { segment_bytes: 1, ..config() });
    spool.append(&closed(1)).unwrap();
    // As a full disk leaves it, or a directory that could not be forced.
    for stump in ["", "NSSPOOL1"] {
        let next = spool.read_from(1, usize::MAX, usize::MAX).unwrap().next_seq;
        fs::write(dir.path().join(format!("{next:020}.seg")), stump).unwrap();
        assert_eq!(spool.append(&closed(next)).unwrap(), next);
    }
    assert_eq!(reported(&spool, 1).len(), 3);
}

#[test]
fn concurrent_appends_get_numbers_of_their_own_and_read_back_whole() {
    let dir = TempDir::new().unwrap();
    let (spool, _) = open(dir.path(), SpoolConfig { segment_bytes: 4096, ..config() });
    thread::scope(|scope| {
        for worker in 0..8 {
            let spool = &spool;
            scope.spawn(move || {
                for n in 0..50 {
                    spool.append(&closed(worker * 1000 + n)).unwrap();
                }
            });
        }
    });
    let mut seen = Vec::new();
    let mut next = 1;
    loop {
        let batch = spool.read_from(next, 7, 1 << 20).unwrap();
        if batch.records.is_empty() {
            break;
        }
        next = batch.next_seq;
        seen.extend(batch.records.into_iter().map(|record| record.seq));
    }
    assert_eq!(seen, (1..=400).collect::<Vec<u64>>());
    assert!(segments(dir.path()).len() > 3);
}

#[test]
fn a_batch_respects_its_bytes_but_always_moves_on() {
    let dir = TempDir::new().unwrap();
    let (spool, _) = open(dir.path(), config());
    for n in 1..=3 {
        spool.append(&closed(n)).unwrap();
    }
    for seq in 1..=3 {
        let batch = spool.read_from(seq, 10, 1).unwrap();
        assert_eq!(batch.records.iter().map(|r| r.seq).collect::<Vec<_>>(), [seq]);
        assert_eq!(batch.next_seq, seq + 1);
    }
    assert_eq!(reported(&spool, 1).len(), 3, "reading again from the start works");
}

#[test]
fn a_record_longer_than_a_read_chunk_reads_back() {
    let dir = TempDir::new().unwrap();
    let (spool, _) = open(dir.path(), config());
    let mut long = Denied { attempt_id: stub(1).attempt_id, ..Denied::default() };
    long.details_json = "x".repeat(600 << 10);
    spool.append(&SpoolRecord { kind: Some(RecordKind::Denied(long)) }).unwrap();
    spool.append(&closed(2)).unwrap();
    assert_eq!(reported(&spool, 1).len(), 2);
}

#[test]
fn acknowledged_segments_go_and_open_attempts_survive_them() {
    let dir = TempDir::new().unwrap();
    let small = SpoolConfig { segment_bytes: 512, ..config() };
    let (spool, _) = open(dir.path(), small.clone());
    spool.append(&opened(7)).unwrap();
    for n in 100..140 {
        for record in [opened(n), closed(n), settled(n)] {
            spool.append(&record).unwrap();
        }
    }
    let before = segments(dir.path()).len();
    spool.tidy().unwrap();
    assert_eq!(segments(dir.path()).len(), before, "nothing goes before it is acknowledged");
    spool.ack(u64::MAX);
    spool.tidy().unwrap();
    assert!(segments(dir.path()).len() <= 3, "{:?}", segments(dir.path()));
    drop(spool);

    let (spool, replay) = open(dir.path(), small.clone());
    assert_eq!(ids(&replay.unclosed), [stub(7).attempt_id]);
    assert_eq!(spool.depth(), 0);
    spool.append(&closed(7)).unwrap();
    spool.append(&settled(7)).unwrap();
    spool.ack(u64::MAX);
    for n in 200..220 {
        spool.append(&closed(n)).unwrap();
        spool.append(&settled(n)).unwrap();
    }
    spool.ack(u64::MAX);
    spool.tidy().unwrap();
    drop(spool);
    let (_, replay) = open(dir.path(), small);
    assert!(replay.unclosed.is_empty(), "a carried attempt that ended is not opened again");
    assert!(replay.next_seq > 142);
}

#[test]
fn an_end_that_the_ledger_has_not_been_told_stays_until_it_has() {
    let dir = TempDir::new().unwrap();
    let small = SpoolConfig { segment_bytes: 512, ..config() };
    let (spool, _) = open(dir.path(), small.clone());
    for record in [opened(7), closed(7), opened(8)] {
        spool.append(&record).unwrap();
    }
    for n in 100..140 {
        for record in [opened(n), closed(n), settled(n)] {
            spool.append(&record).unwrap();
        }
    }
    spool.ack(u64::MAX);
    spool.tidy().unwrap();
    assert!(segments(dir.path()).len() <= 4, "both were carried over: {:?}", segments(dir.path()));
    assert_eq!(spool.depth(), 0, "and are not waited for again");
    let told = |spool: &Spool| {
        let mut attempts = spool.unsettled().unwrap();
        attempts.sort_by(|a, b| a.attempt_id.cmp(&b.attempt_id));
        ids(&attempts).into_iter().map(str::to_owned).collect::<Vec<_>>()
    };
    assert_eq!(told(&spool), [stub(7).attempt_id, stub(8).attempt_id]);
    drop(spool);
    let (spool, replay) = open(dir.path(), small);
    let ends: Vec<_> = replay.unsettled.iter().filter_map(|closed| closed.stub.clone()).collect();
    assert_eq!(ids(&ends), [stub(7).attempt_id]);
    spool.append(&settled(7)).unwrap();
    spool.tidy().unwrap();
    assert_eq!(told(&spool), [stub(8).attempt_id], "what was carried over is told once");
}

#[test]
fn what_is_acknowledged_goes_even_when_the_disk_cannot_note_that() {
    let dir = TempDir::new().unwrap();
    let small = SpoolConfig { segment_bytes: 1, ..config() };
    let (spool, _) = open(dir.path(), small.clone());
    for record in [opened(7), closed(1), settled(1), closed(2), settled(2)] {
        spool.append(&record).unwrap();
    }
    let in_the_way = dir.path().join("acked.tmp");
    fs::create_dir(&in_the_way).unwrap();
    spool.ack(4);
    assert!(spool.tidy().is_err(), "the acknowledgement is not noted");
    assert!(segments(dir.path()).len() <= 3, "{:?}", segments(dir.path()));
    drop(spool);
    let (_, replay) = open(dir.path(), small);
    assert_eq!((replay.missing_seqs, replay.damaged_places), (0, 0));
    assert_eq!((ids(&replay.unclosed), replay.unsettled.len()), (vec![&*stub(7).attempt_id], 0));
}

#[test]
fn an_acknowledgement_survives_and_its_numbers_are_not_used_again() {
    let dir = TempDir::new().unwrap();
    let (spool, _) = open(dir.path(), config());
    for n in 1..=3 {
        spool.append(&closed(n)).unwrap();
    }
    spool.ack(3);
    drop(spool);
    // As a power failure may leave it: the acknowledgement outlived the records.
    fs::write(&segments(dir.path())[0], b"NSSPOOL1").unwrap();
    let (spool, replay) = open(dir.path(), config());
    assert_eq!((replay.next_seq, spool.depth()), (4, 0));
    assert_eq!(spool.append(&closed(4)).unwrap(), 4);
    drop(spool);
    assert_eq!(open(dir.path(), config()).1.next_seq, 5);
}

#[test]
fn a_full_spool_refuses_beginnings_and_keeps_room_for_every_end() {
    let dir = TempDir::new().unwrap();
    let (spool, _) = open(dir.path(), SpoolConfig { max_bytes: 40_000, ..config() });
    let mut begun = 0;
    while spool.append(&opened(begun)).is_ok() {
        begun += 1;
    }
    assert!(matches!(spool.append(&opened(begun)), Err(SpoolError::Full { .. })));
    assert!(begun > 5 && spool.refuses().is_some(), "and says so before it has all its bytes");
    for n in 0..begun {
        spool.append(&closed(n)).unwrap();
        spool.append(&settled(n)).unwrap();
    }
    assert!(spool.stats().bytes <= 40_000, "the ends fitted into what was kept for them");
    assert!(
        spool.refuses().is_none() && spool.append(&opened(begun)).is_ok(),
        "where the ends left room, one passes"
    );
}

#[test]
fn a_directory_has_one_process() {
    let dir = TempDir::new().unwrap();
    let (spool, _) = open(dir.path(), config());
    let second = Spool::open(dir.path(), config(), &RandomIds);
    assert!(matches!(second, Err(SpoolError::InUse { .. })));
    drop(spool);
    open(dir.path(), config());
}

#[test]
fn records_without_an_attempt_are_refused_before_anything_is_written() {
    let dir = TempDir::new().unwrap();
    let (spool, _) = open(dir.path(), config());
    for bad in [SpoolRecord::default(), SpoolRecord { kind: Some(RecordKind::Closed(Closed::default())) }] {
        assert!(matches!(spool.append(&bad), Err(SpoolError::Record { .. })));
    }
    assert_eq!(spool.stats().bytes, 8);
}

#[tokio::test]
async fn durable_appends_wait_for_the_disk_and_share_it() {
    let dir = TempDir::new().unwrap();
    let (spool, _) = open(dir.path(), SpoolConfig { fsync: Fsync::Always, ..config() });
    let appends: Vec<_> = (1..=20)
        .map(|n| {
            let spool = std::sync::Arc::clone(&spool);
            tokio::spawn(async move { spool.append_durably(&opened(n)).await.unwrap() })
        })
        .collect();
    for append in appends {
        append.await.unwrap();
    }
    assert_eq!(*spool.shared.synced.borrow(), 20);
}

#[test]
fn ids_are_not_remade() {
    let dir = TempDir::new().unwrap();
    let fixed = RandomIds.v4().to_string();
    fs::write(dir.path().join("dataplane_id"), &fixed).unwrap();
    assert_eq!(open(dir.path(), config()).0.dataplane_id(), fixed);
    fs::write(dir.path().join("dataplane_id"), "?").unwrap();
    assert!(
        Spool::open(dir.path(), config(), &RandomIds).is_err(),
        "another identity would hide reported work"
    );
}

//! Images whose jobs take their time.

use super::*;

/// One that comes while the one before it is on its way to the disk changes nothing of that: it is not stored, and may come again.
#[test]
fn chunks_are_stored_one_after_the_other() {
    let mut first = filled(MemLevel::default(), options());
    let chunks = image(&mut first, P);
    let lsn = contents(&chunks).0.lsn;
    let mut driver = Driver::new(MemLevel::default(), options());
    driver.hold_jobs = true;
    let ask = |driver: &mut Driver<MemLevel>, number: u32| {
        let chunk = chunks[number as usize].clone();
        driver.store.ask_image(ImageAsk::Store { partition: P, image: ID, number, chunk });
    };
    let answered = |number, is_stored| ImageEvent::Stored { partition: P, image: ID, number, is_stored };
    let last = u32::try_from(chunks.len()).expect("few") - 1;
    assert!(last > 2, "{last} chunks");
    for number in 0..=last {
        ask(&mut driver, number);
        if number < last {
            ask(&mut driver, number + 1);
            assert_eq!(events(&mut driver), [answered(number + 1, false)]);
        }
        driver.take_jobs();
        assert_eq!(driver.held_jobs(), 1, "that of chunk {number}");
        driver.run_a_job(0);
        assert_eq!(events(&mut driver), [answered(number, true)]);
    }
    driver.hold_jobs = false;
    ask_install(&mut driver, P, lsn);
    let ImageEvent::Installed { result, .. } = answer(&mut driver) else { panic!("the end of the install") };
    assert_eq!(result.expect("installs").lsn, lsn);
    assert_eq!(driver.read_in(P, &get("key 1")), bulk(&value(5)));
}

#[test]
fn an_install_waits_for_the_flush_that_holds_the_partition() {
    let mut first = filled(MemLevel::default(), options());
    let chunks = image(&mut first, P);
    let lsn = contents(&chunks).0.lsn;
    let mut driver = Driver::new(MemLevel::default(), options());
    store(&mut driver, P, &chunks);
    driver.run(&set("key 1", "old"));
    driver.hold_jobs = true;
    driver.store.want_flush(Urgency::Soon);
    while driver.store.maintain(1_000_000) {}
    ask_install(&mut driver, P, lsn);
    driver.take_jobs();
    assert_eq!(driver.held_jobs(), 1, "the flush alone");
    driver.run_a_job(0);
    // None begins beside the install, however much it is wanted.
    driver.run_in(OTHER, &set("key", "value"));
    driver.store.want_flush(Urgency::Now);
    driver.store.maintain(1_000_000);
    assert!(!driver.store.ledger.has_running_flush());
    driver.settle();
    assert!(matches!(events(&mut driver)[..], [ImageEvent::Installed { result: Ok(_), .. }]));
    driver.flush();
    assert_eq!((driver.store.persisted(P), driver.store.persisted(OTHER)), (lsn, Lsn(1)));
    assert_eq!(driver.read_in(P, &get("key 1")), bulk(&value(5)));
}

/// No flush makes a point of an entry that is yet to come: none is made until it has.
#[test]
fn an_image_waits_for_its_entry_and_flushes_nothing_meanwhile() {
    let mut driver = Driver::new(MemLevel::default(), options());
    driver.run(&set("key", "1"));
    driver.flush();
    let at_least = Lsn(3);
    driver.store.ask_image(ImageAsk::Open { number: 1, partition: P, at_least });
    driver.hold_jobs = true;
    for _ in 0..3 {
        driver.run_a_job(0);
        while driver.store.maintain(1_000_000) {}
    }
    driver.take_jobs();
    assert_eq!(driver.held_jobs(), 0, "it has looked once");
    // A flush that others want makes it look again, and no more.
    driver.run(&set("key", "2"));
    driver.store.want_flush(Urgency::Now);
    let mut jobs = 0;
    for _ in 0..8 {
        while driver.store.maintain(1_000_000) {}
        driver.take_jobs();
        jobs += driver.held_jobs().min(1);
        driver.run_a_job(0);
    }
    assert!(jobs <= 3, "{jobs} jobs: a flush, a look, and a merge at most");
    assert_eq!(events(&mut driver), []);
    driver.run(&set("key", "3"));
    driver.hold_jobs = false;
    assert_eq!(answer(&mut driver), ImageEvent::Opened { number: 1, lsn: at_least });
}

use tokio::time::advance;

use super::*;

const N1: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 1);
const N2: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 2);
const LOOK: Duration = Duration::from_millis(500);
const SERVES_AFTER: Duration = Duration::from_secs(80);

fn download(is_complete: bool, downloading: Option<u64>) -> Download {
    Download {
        is_complete,
        downloading,
        is_former_master: false,
    }
}

fn new_care(followed: Option<Followed>) -> Care {
    Care::new(followed, SERVES_AFTER, Judges::Care)
}

/// A standby that has followed `N1` to the present moment.
fn standby() -> Care {
    let mut care = new_care(None);
    care.heard(Some(N1));
    care.metalogger_seen(false, None);
    care.probed(true);
    care.begins_to_follow(Followed::of(N1, None));
    assert!(care.staleness().is_some(), "the download is not there");
    care.metalogger_seen(true, Some(1));
    care.connected(Followed::of(N1, Some(1)));
    care.download_seen(download(false, Some(7)));
    assert!(care.staleness().is_some(), "the changes are not there");
    care.download_seen(download(true, None));
    care.looked(None);
    assert_eq!(care.staleness(), None);
    care
}

#[tokio::test(start_paused = true)]
async fn a_daemon_that_starts_listens_first() {
    let care = new_care(None);
    assert!(care.staleness().is_some());
    advance(LISTEN).await;
    assert_eq!(care.staleness(), None, "nobody is there: a cold start");
}

#[tokio::test(start_paused = true)]
async fn who_followed_to_the_end_is_complete() {
    let mut care = standby();
    care.metalogger_seen(true, None);
    care.probed(false);
    assert_eq!(care.staleness(), None, "the master died");
    care.took_over();
    assert_eq!(care.staleness(), None);
}

#[tokio::test(start_paused = true)]
async fn who_lost_the_connection_before_stays_lacking_when_the_master_dies() {
    let mut care = standby();
    assert!(care.metalogger_seen(true, None), "it is lost now");
    care.probed(true);
    assert!(care.staleness().is_some());
    care.metalogger_seen(true, None);
    care.probed(false);
    assert!(care.staleness().is_some(), "also now that nobody accepts");
    care.metalogger_seen(true, Some(2));
    assert!(!care.follows(), "another connection: it has to start anew");
    assert!(care.staleness().is_some());
}

#[tokio::test(start_paused = true)]
async fn a_master_that_is_heard_and_cannot_be_reached_serves() {
    let mut care = standby();
    for _ in 0..20 {
        care.metalogger_seen(true, None);
        care.probed(false);
        assert_eq!(care.staleness(), None);
        advance(LOOK).await;
    }
    advance(SERVES_AFTER).await;
    care.metalogger_seen(true, None);
    care.probed(false);
    assert!(care.staleness().is_some());
}

#[tokio::test(start_paused = true)]
async fn a_candidate_that_never_serves_makes_nobody_stale() {
    let mut care = standby();
    care.metalogger_seen(true, None);
    care.heard(Some(N2));
    assert!(!care.follows());
    assert_eq!(care.staleness(), None);
    care.probed(false);
    assert_eq!(care.staleness(), None);
    care.probed(true);
    assert!(care.staleness().is_some(), "now it serves");
}

#[tokio::test(start_paused = true)]
async fn a_candidate_that_never_serves_does_not_make_up_for_what_is_lacking() {
    let mut care = standby();
    care.metalogger_seen(true, None);
    care.probed(true);
    care.heard(Some(N2));
    care.probed(false);
    assert!(care.staleness().is_some());
}

#[tokio::test(start_paused = true)]
async fn a_new_daemon_does_not_know_until_it_has_asked() {
    let mut care = new_care(Some(Followed::of(N1, Some(1))));
    advance(LISTEN).await;
    care.heard(Some(N1));
    assert!(care.staleness().is_some());
    care.probed(false);
    assert!(care.staleness().is_some(), "it may only be busy");
    advance(KNOCK).await;
    assert!(care.staleness().is_some(), "nor was it asked since");
    care.probed(false);
    assert_eq!(care.staleness(), None, "a master that does not serve");
    care.probed(true);
    assert!(care.staleness().is_some(), "one that does");
    care.heard(Some(N2));
    care.probed(false);
    assert!(care.staleness().is_some());
}

#[tokio::test(start_paused = true)]
async fn a_metalogger_that_went_on_without_the_daemon_is_taken_over() {
    let mut care = new_care(Some(Followed::of(N1, Some(1))));
    care.heard(Some(N1));
    care.metalogger_seen(true, Some(1));
    assert!(care.follows());
    care.download_seen(download(true, None));
    assert_eq!(care.staleness(), None);

    let mut care = new_care(Some(Followed::of(N1, Some(1))));
    care.heard(Some(N1));
    care.metalogger_seen(true, Some(2));
    assert!(!care.follows(), "its connection is another one");
    let mut care = new_care(Some(Followed::of(N1, Some(1))));
    care.heard(Some(N2));
    care.metalogger_seen(true, Some(1));
    assert!(!care.follows(), "its master is another one");
}

#[tokio::test(start_paused = true)]
async fn who_has_been_master_for_minutes_has_served() {
    let mut care = standby();
    care.took_over();
    care.metalogger_seen(false, None);
    care.heard(Some(N2));
    care.probed(false);
    assert_eq!(care.staleness(), None);
    advance(SERVES_AFTER + LOOK).await;
    care.probed(false);
    assert!(care.staleness().is_some());
}

#[tokio::test(start_paused = true)]
async fn what_does_not_mend_itself_is_renewed_and_a_download_is_left_alone() {
    let mut care = standby();
    care.looked(Some(true));
    advance(HOPELESS_AFTER + LOOK).await;
    assert!(care.must_renew());
    care.begins_to_follow(Followed::of(N1, None));
    care.metalogger_seen(true, Some(2));
    for bytes in 0..200 {
        care.download_seen(download(false, Some(bytes)));
        care.looked(Some(false));
        advance(LOOK).await;
        assert!(!care.must_renew(), "after {bytes} looks");
    }
    care.download_seen(download(false, None));
    care.looked(Some(true));
    advance(RENEW_AFTER + LOOK).await;
    assert!(!care.must_renew(), "the second time it waits twice as long");
    advance(RENEW_AFTER + LOOK).await;
    assert!(care.must_renew());
}

#[tokio::test(start_paused = true)]
async fn a_download_that_never_comes_is_asked_for_again() {
    let mut care = new_care(None);
    care.heard(Some(N1));
    care.begins_to_follow(Followed::of(N1, None));
    care.metalogger_seen(true, Some(1));
    care.download_seen(download(false, None));
    care.looked(None);
    advance(RENEW_AFTER + LOOK).await;
    assert!(care.must_renew());
}

fn voter(followed: Option<Followed>, judges: Judges) -> Care {
    Care::new(followed, SERVES_AFTER, judges)
}

#[tokio::test(start_paused = true)]
async fn where_voters_compare_versions_nobody_guesses() {
    let mut care = voter(None, Judges::Voters);
    assert_eq!(care.staleness(), None, "nor has it to listen first");
    care.heard(Some(N1));
    care.probed(true);
    assert_eq!(care.staleness(), None, "it has what it has");
}

#[tokio::test(start_paused = true)]
async fn what_is_being_downloaded_is_offered_to_no_voter() {
    let mut care = voter(None, Judges::Voters);
    care.heard(Some(N1));
    care.begins_to_follow(Followed::of(N1, None));
    assert!(care.staleness().is_some());
    care.metalogger_seen(true, Some(1));
    care.download_seen(download(false, Some(7)));
    assert!(care.staleness().is_some() && !care.is_fed());
    care.download_seen(download(true, None));
    assert!(care.staleness().is_none() && care.is_fed());
    // The same master, started anew: the connection is another one.
    care.connected(Followed::of(N1, Some(1)));
    care.metalogger_seen(true, Some(2));
    assert!(!care.is_fed());
    care.metalogger_seen(true, Some(1));
    care.follow_anew();
    assert!(!care.is_fed() && !care.follows());
}

#[tokio::test(start_paused = true)]
async fn a_download_that_was_cut_off_counts_only_where_loss_is_accepted() {
    let mut care = voter(Some(Followed::of(N1, Some(1))), Judges::Voters);
    care.download_seen(download(false, None));
    assert!(care.staleness().is_some());
    let former_master = Download {
        is_former_master: true,
        ..Download::default()
    };
    care.download_seen(former_master);
    assert_eq!(care.staleness(), None, "these are no downloaded files");

    let mut care = voter(Some(Followed::of(N1, Some(1))), Judges::VotersAcceptingLoss);
    care.download_seen(download(false, None));
    assert_eq!(care.staleness(), None);
    care.heard(Some(N2));
    assert!(care.staleness().is_some(), "somebody serves");
}

#[tokio::test(start_paused = true)]
async fn a_metalogger_of_an_earlier_life_is_waited_for_and_then_ended() {
    let mut care = voter(None, Judges::Voters);
    care.metalogger_seen(true, None);
    assert!(care.staleness().is_some(), "it may still write");
    assert!(!care.follows_nobody(), "its master may be heard yet");
    advance(LISTEN).await;
    assert!(care.follows_nobody());
    care.metalogger_seen(false, None);
    assert_eq!(care.staleness(), None);
    let mut care = new_care(None);
    care.metalogger_seen(true, None);
    advance(LISTEN).await;
    assert!(!care.follows_nobody(), "in carp mode it goes on");
}

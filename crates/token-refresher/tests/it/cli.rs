//! The command line.

use pipekeeper_testing::service::Program;
use token_refresher::TokenRefresher;

const BINARY: &str = env!("CARGO_BIN_EXE_token-refresher");

pipekeeper_testing::promises_of_a_service!(TokenRefresher, BINARY);

#[test]
fn the_api_describes_itself() {
    let run = Program::<TokenRefresher>::new(BINARY).run(&["openapi"], &[]);
    insta::assert_snapshot!(run.stdout);
}

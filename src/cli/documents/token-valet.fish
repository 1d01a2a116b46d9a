# Print an optspec for argparse to handle cmd's options that are independent of any subcommand.
function __fish_token_valet_global_optspecs
    string join \n h/help V/version
end

function __fish_token_valet_needs_command
    # Figure out if the current invocation already has a command.
    set -l cmd (commandline -opc)
    set -e cmd[1]
    argparse -s (__fish_token_valet_global_optspecs) -- $cmd 2>/dev/null
    or return
    if set -q argv[1]
        # Also print the command, so this can be used to figure out what it is.
        echo $argv[1]
        return 1
    end
    return 0
end

function __fish_token_valet_using_subcommand
    set -l cmd (__fish_token_valet_needs_command)
    test -z "$cmd"
    and return 1
    contains -- $cmd[1] $argv
end

complete -c token-valet -n "__fish_token_valet_needs_command" -s h -l help -d 'Print help'
complete -c token-valet -n "__fish_token_valet_needs_command" -s V -l version -d 'Print version'
complete -c token-valet -n "__fish_token_valet_needs_command" -f -a "run" -d 'Run the sidecar'
complete -c token-valet -n "__fish_token_valet_needs_command" -f -a "exec" -d 'Run the sidecar and, after its first token, a command; end with the command, and its exit code'
complete -c token-valet -n "__fish_token_valet_needs_command" -f -a "check" -d 'Tell every fault of the configuration at once'
complete -c token-valet -n "__fish_token_valet_needs_command" -f -a "health" -d 'Ask a running sidecar whether it is alive, started or ready'
complete -c token-valet -n "__fish_token_valet_needs_command" -f -a "quit" -d 'Have a running sidecar drain and end, where `admin.quit = true` permits it'
complete -c token-valet -n "__fish_token_valet_needs_command" -f -a "config" -d 'Show the configuration'
complete -c token-valet -n "__fish_token_valet_needs_command" -f -a "sandbox" -d 'Try the sidecar against an imitation of the provider, without credentials'
complete -c token-valet -n "__fish_token_valet_needs_command" -f -a "completions" -d 'Print what completes this command in a shell'
complete -c token-valet -n "__fish_token_valet_needs_command" -f -a "man" -d 'Print the manual page: `token-valet man | man -l -`'
complete -c token-valet -n "__fish_token_valet_needs_command" -f -a "help" -d 'Print this message or the help of the given subcommand(s)'
complete -c token-valet -n "__fish_token_valet_using_subcommand run" -s c -l config -d 'The configuration' -r -F
complete -c token-valet -n "__fish_token_valet_using_subcommand run" -s h -l help -d 'Print help'
complete -c token-valet -n "__fish_token_valet_using_subcommand exec" -s c -l config -d 'The configuration' -r -F
complete -c token-valet -n "__fish_token_valet_using_subcommand exec" -s h -l help -d 'Print help'
complete -c token-valet -n "__fish_token_valet_using_subcommand check" -s c -l config -d 'The configuration' -r -F
complete -c token-valet -n "__fish_token_valet_using_subcommand check" -l online -d 'Connect to the API too, without a request, and fetch a token if that uses nothing up'
complete -c token-valet -n "__fish_token_valet_using_subcommand check" -s h -l help -d 'Print help'
complete -c token-valet -n "__fish_token_valet_using_subcommand health" -s c -l config -d 'The configuration' -r -F
complete -c token-valet -n "__fish_token_valet_using_subcommand health" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c token-valet -n "__fish_token_valet_using_subcommand quit" -s c -l config -d 'The configuration' -r -F
complete -c token-valet -n "__fish_token_valet_using_subcommand quit" -s h -l help -d 'Print help'
complete -c token-valet -n "__fish_token_valet_using_subcommand config; and not __fish_seen_subcommand_from show schema help" -s h -l help -d 'Print help'
complete -c token-valet -n "__fish_token_valet_using_subcommand config; and not __fish_seen_subcommand_from show schema help" -f -a "show" -d 'The values in force and where each comes from, without secrets'
complete -c token-valet -n "__fish_token_valet_using_subcommand config; and not __fish_seen_subcommand_from show schema help" -f -a "schema" -d 'A JSON Schema of the file, for editors'
complete -c token-valet -n "__fish_token_valet_using_subcommand config; and not __fish_seen_subcommand_from show schema help" -f -a "help" -d 'Print this message or the help of the given subcommand(s)'
complete -c token-valet -n "__fish_token_valet_using_subcommand config; and __fish_seen_subcommand_from show" -s c -l config -d 'The configuration' -r -F
complete -c token-valet -n "__fish_token_valet_using_subcommand config; and __fish_seen_subcommand_from show" -s h -l help -d 'Print help'
complete -c token-valet -n "__fish_token_valet_using_subcommand config; and __fish_seen_subcommand_from schema" -s h -l help -d 'Print help'
complete -c token-valet -n "__fish_token_valet_using_subcommand config; and __fish_seen_subcommand_from help" -f -a "show" -d 'The values in force and where each comes from, without secrets'
complete -c token-valet -n "__fish_token_valet_using_subcommand config; and __fish_seen_subcommand_from help" -f -a "schema" -d 'A JSON Schema of the file, for editors'
complete -c token-valet -n "__fish_token_valet_using_subcommand config; and __fish_seen_subcommand_from help" -f -a "help" -d 'Print this message or the help of the given subcommand(s)'
complete -c token-valet -n "__fish_token_valet_using_subcommand sandbox" -s c -l config -d 'A configuration to use instead of the built-in one; the command itself sets URLs, certificates and secrets' -r -F
complete -c token-valet -n "__fish_token_valet_using_subcommand sandbox" -s h -l help -d 'Print help'
complete -c token-valet -n "__fish_token_valet_using_subcommand completions" -s h -l help -d 'Print help'
complete -c token-valet -n "__fish_token_valet_using_subcommand man" -s h -l help -d 'Print help'
complete -c token-valet -n "__fish_token_valet_using_subcommand help; and not __fish_seen_subcommand_from run exec check health quit config sandbox completions man help" -f -a "run" -d 'Run the sidecar'
complete -c token-valet -n "__fish_token_valet_using_subcommand help; and not __fish_seen_subcommand_from run exec check health quit config sandbox completions man help" -f -a "exec" -d 'Run the sidecar and, after its first token, a command; end with the command, and its exit code'
complete -c token-valet -n "__fish_token_valet_using_subcommand help; and not __fish_seen_subcommand_from run exec check health quit config sandbox completions man help" -f -a "check" -d 'Tell every fault of the configuration at once'
complete -c token-valet -n "__fish_token_valet_using_subcommand help; and not __fish_seen_subcommand_from run exec check health quit config sandbox completions man help" -f -a "health" -d 'Ask a running sidecar whether it is alive, started or ready'
complete -c token-valet -n "__fish_token_valet_using_subcommand help; and not __fish_seen_subcommand_from run exec check health quit config sandbox completions man help" -f -a "quit" -d 'Have a running sidecar drain and end, where `admin.quit = true` permits it'
complete -c token-valet -n "__fish_token_valet_using_subcommand help; and not __fish_seen_subcommand_from run exec check health quit config sandbox completions man help" -f -a "config" -d 'Show the configuration'
complete -c token-valet -n "__fish_token_valet_using_subcommand help; and not __fish_seen_subcommand_from run exec check health quit config sandbox completions man help" -f -a "sandbox" -d 'Try the sidecar against an imitation of the provider, without credentials'
complete -c token-valet -n "__fish_token_valet_using_subcommand help; and not __fish_seen_subcommand_from run exec check health quit config sandbox completions man help" -f -a "completions" -d 'Print what completes this command in a shell'
complete -c token-valet -n "__fish_token_valet_using_subcommand help; and not __fish_seen_subcommand_from run exec check health quit config sandbox completions man help" -f -a "man" -d 'Print the manual page: `token-valet man | man -l -`'
complete -c token-valet -n "__fish_token_valet_using_subcommand help; and not __fish_seen_subcommand_from run exec check health quit config sandbox completions man help" -f -a "help" -d 'Print this message or the help of the given subcommand(s)'
complete -c token-valet -n "__fish_token_valet_using_subcommand help; and __fish_seen_subcommand_from config" -f -a "show" -d 'The values in force and where each comes from, without secrets'
complete -c token-valet -n "__fish_token_valet_using_subcommand help; and __fish_seen_subcommand_from config" -f -a "schema" -d 'A JSON Schema of the file, for editors'

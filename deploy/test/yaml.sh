# Every YAML file by yamllint, with deploy/.yamllint.
. "$(dirname "$0")/lib.sh"
mapfile -t files < <(find "$deploy" -name '*.yaml')
yamllint --strict --config-file "$deploy/.yamllint" "${files[@]}"
echo "ran: yamllint, ${#files[@]} files, no finding"

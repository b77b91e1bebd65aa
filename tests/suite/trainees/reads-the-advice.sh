# Knows nothing but the README: inspects, and does what the last lines of the answer say.
advice=$(pgpoke inspect --max-stop 500ms "$1" | sed -n '/^next /,$p')
echo "$advice"
case $advice in
    *"kill -CONT $1"*) kill -CONT "$1" ;;
    *"pgpoke interrupt "*) $(echo "$advice" | grep -o 'pgpoke interrupt .*' | head -n 1) --max-stop 500ms --yes ;;
    *"look at process "*", so does the wait"*) kill $(echo "$advice" | grep -o 'process [0-9]*' | cut -d ' ' -f 2) ;;
esac

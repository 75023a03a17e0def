import theme from 'vitepress/theme'
import './sessions.css'

export default theme
